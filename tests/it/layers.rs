//! The arrows of the architecture point down only.

use std::fs;
use std::path::{Path, PathBuf};

/// Every module with its layer. A module may name modules of lower layers only; changing this table
/// is a design decision.
const LAYERS: &[(&str, u8)] = &[
    ("model", 0),
    ("crypto", 1),
    ("wire", 2),
    ("oplog", 3),
    ("fold", 3),
    ("lease", 3),
    ("roster", 4),
    ("sync", 5),
    ("sim", 6),
    ("clock", 6),
    ("config", 6),
    ("store", 6),
    ("net", 6),
    ("dropbox", 6),
    ("coordinator", 7),
    ("node", 8),
    ("control", 9),
    // Text only.
    ("manual", 0),
];

/// Modules that must build without tokio, files, sockets and clocks.
const CORE: &[&str] = &["model", "crypto", "wire", "oplog", "fold", "roster", "lease", "sync"];

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the source is readable") {
        let path = entry.expect("the source is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules a source names as `crate::module`, outside its unit tests and comments.
fn named(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>())
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect())
        .collect()
}

#[test]
fn arrows_point_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let mut wrong = Vec::new();
    for path in found {
        let inside = path.strip_prefix(&root).expect("found below");
        let first = inside.components().next().expect("a file has a name").as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs");
        if module == "lib" || module == "bin" {
            continue;
        }
        let is_tests = inside.components().any(|part| part.as_os_str() == "tests")
            || inside
                .file_stem()
                .is_some_and(|stem| stem == "tests" || stem == "testing" || stem == "reference");
        let own = layer(module).unwrap_or_else(|| panic!("{module} has no layer: give it one in this test"));
        let text = fs::read_to_string(&path).expect("the source is readable");
        for name in named(&text) {
            let is_down = name == module || layer(&name).is_some_and(|layer| layer < own);
            if !is_down && !is_tests && !name.is_empty() {
                wrong.push(format!("{}: {module} names {name}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_core_names_no_shell() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for module in CORE {
        let mut found = Vec::new();
        sources(&root.join(module), &mut found);
        for path in found {
            let text = fs::read_to_string(&path).expect("the source is readable");
            for shell in
                ["tokio::", "std::fs", "std::net", "SystemTime", "Instant::now", "getrandom", "HashMap"]
            {
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                let hit =
                    code.lines().find(|line| !line.trim_start().starts_with("//") && line.contains(shell));
                assert_eq!(hit, None, "{} names {shell}", path.display());
            }
        }
    }
}

#[test]
fn the_check_sees_an_arrow_that_points_up() {
    assert_eq!(
        named("use crate::node::Node;\n// crate::net\nlet x = crate::model::Seq::ZERO;"),
        ["node", "model"]
    );
    assert!(layer("node") > layer("sync"));
}
