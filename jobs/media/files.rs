//! Files below the uploads folder. A path is opened once, and judged by what was opened: what lies under a name can
//! change between two looks at it.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat, openat2},
    io::Errno,
};

/// Why a path leads to no file.
#[derive(Debug)]
pub(super) enum OpenFileError {
    /// The uploads folder itself cannot be opened.
    Folder(io::Error),
    /// Nothing, no regular file, or something outside: one answer, since a payload must not learn what else a disk
    /// holds.
    NoFile,
    /// It is there, and cannot be read this time.
    Unreadable(io::Error),
}

/// Opens the regular file at `path`, which is relative to `folder` or begins with it. Symbolic links are followed as
/// long as they stay below the folder.
///
/// Never waits: of a pipe, no writer has to come.
pub(super) fn open_beneath(folder: &Path, path: &str) -> Result<File, OpenFileError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(folder, flags, Mode::empty()).map_err(|e| OpenFileError::Folder(e.into()))?;
    let path = relative(folder, Path::new(path)).ok_or(OpenFileError::NoFile)?;
    let file = File::from(open_in(&root, &path).map_err(judge)?);
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(OpenFileError::NoFile),
        Err(error) => Err(OpenFileError::Unreadable(error)),
    }
}

/// The path below the folder; `None` for an absolute one that does not lead there.
fn relative(folder: &Path, path: &Path) -> Option<PathBuf> {
    if path.is_relative() {
        return Some(path.to_owned());
    }
    let below = |folder: &Path| path.strip_prefix(folder).ok().map(Path::to_owned);
    below(folder).or_else(|| below(&folder.canonicalize().ok()?))
}

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

fn open_in(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    /// A folder that is renamed while the kernel walks through it makes it ask to be called again.
    const TRIES: usize = 8;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match openat2(root, path, READ, Mode::empty(), beneath) {
            Err(Errno::AGAIN) => {}
            // A kernel before 5.6, or a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return step_by_step(root, path),
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// The same without the kernel's help: one name at a time, and no symbolic link is followed.
fn step_by_step(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(Errno::XDEV),
        }
    }
    let (file, folders) = names.split_last().ok_or(Errno::ISDIR)?;
    let mut at: Option<OwnedFd> = None;
    for name in folders {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = Some(openat(at.as_ref().unwrap_or(root), *name, flags, Mode::empty())?);
    }
    openat(
        at.as_ref().unwrap_or(root),
        *file,
        READ | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

fn judge(error: Errno) -> OpenFileError {
    match error {
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::XDEV
        | Errno::LOOP
        | Errno::NXIO
        | Errno::NODEV
        | Errno::INVAL
        | Errno::NAMETOOLONG => OpenFileError::NoFile,
        other => OpenFileError::Unreadable(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read as _,
        sync::atomic::{AtomicBool, Ordering},
        time::{Duration, Instant},
    };

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    struct Uploads(PathBuf);

    impl Uploads {
        fn new(name: &str) -> Self {
            let all = std::env::temp_dir().join(format!("jobs-files-{}-{name}", std::process::id()));
            fs::create_dir_all(all.join("uploads/sub")).unwrap();
            fs::write(all.join("secret"), "secret").unwrap();
            fs::write(all.join("uploads/sub/a"), "inside").unwrap();
            Self(all)
        }

        fn folder(&self) -> PathBuf {
            self.0.join("uploads")
        }
    }

    impl Drop for Uploads {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn pipe(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[test]
    fn a_pipe_is_no_file_and_nobody_waits_for_its_writer() {
        let uploads = Uploads::new("pipe");
        pipe(&uploads.folder().join("pipe"));
        assert!(matches!(
            open_beneath(&uploads.folder(), "pipe"),
            Err(OpenFileError::NoFile)
        ));
    }

    #[test]
    fn step_by_step_leads_to_the_same_files() {
        let uploads = Uploads::new("steps");
        std::os::unix::fs::symlink("../secret", uploads.folder().join("out")).unwrap();
        std::os::unix::fs::symlink("..", uploads.folder().join("up")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let root = open(uploads.folder(), flags, Mode::empty()).unwrap();
        let mut text = String::new();
        let file = step_by_step(&root, Path::new("./sub/a")).unwrap();
        File::from(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        for outside in [
            "out",
            "up/secret",
            "../secret",
            "sub/../../secret",
            "/etc/passwd",
            "",
            "missing",
        ] {
            let refused = step_by_step(&root, Path::new(outside)).map_err(judge);
            assert!(
                matches!(refused, Err(OpenFileError::NoFile)),
                "{outside}: {refused:?}"
            );
        }
    }

    /// What lies under the name changes all the time: a file inside, a link to one outside, a pipe.
    #[test]
    fn a_name_that_is_swapped_never_leads_outside() {
        let uploads = Uploads::new("swap");
        let (folder, swapped) = (uploads.folder(), uploads.folder().join("swapped"));
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        pipe(&folder.join("pipe"));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    fs::write(folder.join("file"), "inside").unwrap();
                    fs::rename(folder.join("file"), &swapped).unwrap();
                    for other in ["link", "pipe"] {
                        let copy = folder.join("copy");
                        match other {
                            "link" => std::os::unix::fs::symlink("../secret", &copy).unwrap(),
                            _ => pipe(&copy),
                        }
                        fs::rename(&copy, &swapped).unwrap();
                    }
                }
            });
            let (mut read, mut tries, began) = (0, 0, Instant::now());
            // On a busy machine thousands of tries pass while the other thread waits for its turn.
            while tries < 3_000 || read == 0 && began.elapsed() < Duration::from_secs(60) {
                tries += 1;
                if let Ok(mut file) = open_beneath(&folder, "swapped") {
                    let mut text = String::new();
                    file.read_to_string(&mut text).unwrap();
                    assert!(text == "inside" || text.is_empty(), "{text}");
                    read += 1;
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(read > 0, "the file inside is read now and then");
        });
    }
}
