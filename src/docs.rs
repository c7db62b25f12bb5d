//! Checks of the documents: links and paths lead somewhere, and generated sections are as the code says. A generated
//! section is written again with `UPDATE_SCHEMAS=1`.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

/// Folders of the repository that documents name files of.
const FOLDERS: &[&str] = &[
    "src/",
    "jobs/",
    "tests/",
    "docs/",
    "scripts/",
    "simulator/",
    "migrations/",
    "benches/",
    "fuzz/",
    "examples/",
];

/// Compares the section between `<!-- name -->` and `<!-- /name -->` of a document with `text`.
pub(crate) fn check_section(document: &str, name: &str, text: &str) {
    let path = root().join(document);
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->\n"));
    let old = fs::read_to_string(&path).unwrap_or_default();
    let (before, rest) = old
        .split_once(&begin)
        .unwrap_or_else(|| panic!("{document} has no line {begin}"));
    let (section, after) = rest
        .split_once(&end)
        .unwrap_or_else(|| panic!("{document} has no line {end}"));
    if section != text && std::env::var("UPDATE_SCHEMAS").is_ok_and(|value| value == "1") {
        fs::write(&path, format!("{before}{begin}{text}{end}{after}")).unwrap();
        return;
    }
    assert!(
        section == text,
        "{document} differs from the code. Run `just generate`, or UPDATE_SCHEMAS=1 cargo nextest run -E 'test(docs_)'."
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document: the files in the root and all below `docs`.
fn documents() -> Vec<PathBuf> {
    fn walk(folder: &Path, deep: bool, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && deep {
                walk(&path, deep, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), false, &mut found);
    walk(&root().join("docs"), true, &mut found);
    found
}

/// The lines outside of code blocks.
fn prose(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut fenced = false;
    let outside = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    };
    text.lines().filter(outside).map(str::to_owned).collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(path: &Path) -> HashSet<String> {
    let headings = prose(path).into_iter().filter_map(|line| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len() && title.starts_with(' ')).then(|| title.trim().to_lowercase())
    });
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings
        .map(|title| title.chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn docs_links_lead_somewhere() {
    let (mut links, mut broken) = (0, Vec::new());
    for document in documents() {
        let folder = document.parent().unwrap();
        for line in prose(&document) {
            for target in line.split("](").skip(1) {
                let Some((target, _)) = target.split_once(')') else {
                    continue;
                };
                if target.contains("://") {
                    continue;
                }
                links += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let path = if file.is_empty() {
                    document.clone()
                } else {
                    folder.join(file)
                };
                let leads = path.exists() && (anchor.is_empty() || anchors(&path).contains(anchor));
                if !leads {
                    broken.push(format!("{}: {target}", document.display()));
                }
            }
        }
    }
    assert!(links > 100, "only {links} links were found");
    assert!(
        broken.is_empty(),
        "links that lead nowhere:\n{}",
        broken.join("\n")
    );
}

/// A document that names a file by its path is wrong as soon as the file moves.
#[test]
fn docs_name_files_that_exist() {
    let (mut named, mut missing) = (0, Vec::new());
    let history = root().join("CHANGELOG.md");
    for document in documents().into_iter().filter(|path| *path != history) {
        for line in prose(&document) {
            for code in line.split('`').skip(1).step_by(2) {
                let is_path = FOLDERS.iter().any(|folder| code.starts_with(folder));
                if !is_path || code.contains([' ', '*', '<', '{', '…']) {
                    continue;
                }
                named += 1;
                if !root().join(code).exists() {
                    missing.push(format!("{}: {code}", document.display()));
                }
            }
        }
    }
    assert!(named > 50, "only {named} paths were found");
    assert!(
        missing.is_empty(),
        "files that do not exist:\n{}",
        missing.join("\n")
    );
}
