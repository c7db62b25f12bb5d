use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{
    file::{self, DamageError},
    record::KeptOutcome,
    *,
};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("spool-unit-{:016x}", rand::random::<u64>()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn outcome(result: &str) -> SpooledOutcome {
    SpooledOutcome {
        layout: "bullmq".to_owned(),
        queue: "q".to_owned(),
        ledger_key: "ledger:bull:q:1".to_owned(),
        worker: "w".to_owned(),
        id: "1".to_owned(),
        token: "w:1".to_owned(),
        outcome: KeptOutcome::Completed {
            result: result.to_owned(),
            equal: None,
        },
    }
}

#[tokio::test]
async fn an_outcome_is_read_as_it_was_written() {
    let folder = Folder::new();
    let spool = OutcomeSpool::open(&folder.0).unwrap();
    let kept = spool.keep(outcome("{\"a\":\"\u{e9}\\n\"}")).await.unwrap();
    assert_eq!(spool.waiting().unwrap(), [kept.path()]);
    assert_eq!(file::read(kept.path()).unwrap(), outcome("{\"a\":\"\u{e9}\\n\"}"));
    // Results are a student's texts.
    let mode = fs::metadata(kept.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    kept.remove().await;
    assert_eq!(spool.waiting().unwrap(), Vec::<PathBuf>::new());
}

/// Whatever byte of a file is changed or missing, the file is not read as an outcome.
#[tokio::test]
async fn every_damage_is_noticed() {
    let folder = Folder::new();
    let spool = OutcomeSpool::open(&folder.0).unwrap();
    let path = spool.keep(outcome("{}")).await.unwrap().path().to_owned();
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        assert!(file::read(&path).is_err(), "byte {at} is changed");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(file::read(&path).is_err(), "it ends at byte {at}");
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(matches!(file::read(&path), Err(DamageError::Length { .. })));
}

#[test]
fn a_folder_that_is_missing_is_named() {
    let error = OutcomeSpool::open(Path::new("/no/such/folder")).unwrap_err();
    assert!(error.to_string().starts_with("/no/such/folder: "), "{error}");
}
