//! Keeps the workspace in the shape that ARCHITECTURE.md says: who may depend on whom, where unsafe code may be, how
//! long a file may get.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wherry_tests::binary::wherry_bin;

/// Every edge there may be between crates of the workspace. `wherry-tests` may depend on all.
const EDGES: [(&str, &str); 4] = [
    ("wherry", "wherry-repo"),
    ("wherry", "wherry-block"),
    ("wherry", "wherry-api"),
    ("wherry-controller", "wherry-api"),
];

/// Lines of one source file, without its test modules.
const LONGEST_FILE: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Value) -> &[Value] {
    metadata["packages"].as_array().unwrap()
}

/// Edges between members of the workspace that are not allowed; those of dev- and build-dependencies count too.
fn forbidden_edges(metadata: &Value) -> Vec<(String, String)> {
    let members: BTreeSet<&str> = packages(metadata).iter().map(|p| p["name"].as_str().unwrap()).collect();
    let mut found = Vec::new();
    for package in packages(metadata) {
        let from = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            let allowed = from == "wherry-tests" || EDGES.contains(&(from, to));
            if members.contains(to) && !allowed {
                found.push((from.to_owned(), to.to_owned()));
            }
        }
    }
    found
}

/// Lines that count: everything up to the test module, if the file ends with one.
fn code_lines(text: &str) -> usize {
    let mut lines = 0;
    let mut after_test_attribute = false;
    for line in text.lines() {
        if after_test_attribute && line.starts_with("mod ") && line.ends_with('{') {
            return lines - 1;
        }
        after_test_attribute = line == "#[cfg(test)]";
        lines += 1;
    }
    lines
}

/// A word of the language, not a part of an identifier, of a comment or of a string.
fn uses_unsafe(text: &str) -> bool {
    text.lines().any(|line| {
        let code = line.split("//").next().unwrap_or_default();
        let before_string = code.split('"').next().unwrap_or_default();
        ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "#[unsafe("]
            .iter()
            .any(|form| before_string.contains(form))
    })
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(root(), &mut found);
    assert!(found.len() > 10, "found only {} source files", found.len());
    found
}

/// A file of tests beside the code, or a suite: not code that is shipped.
fn is_test_file(path: &Path) -> bool {
    let path = path.strip_prefix(root()).unwrap();
    let stem = path.file_stem().unwrap().to_string_lossy();
    stem == "tests" || stem.ends_with("_tests") || path.components().any(|c| c.as_os_str() == "tests")
}

#[test]
fn only_the_allowed_edges() {
    let metadata = metadata();
    assert!(packages(&metadata).len() >= 6);
    assert_eq!(forbidden_edges(&metadata), []);
}

#[test]
fn an_extra_edge_is_found() {
    for (from, to) in
        [("wherry-repo", "wherry-block"), ("wherry-controller", "wherry-repo"), ("wherry-api", "wherry-repo")]
    {
        for kind in [json!(null), json!("dev"), json!("build")] {
            let mut planted = metadata();
            let packages = planted["packages"].as_array_mut().unwrap();
            let package = packages.iter_mut().find(|package| package["name"] == from).unwrap();
            package["dependencies"].as_array_mut().unwrap().push(json!({ "name": to, "kind": kind }));
            assert_eq!(forbidden_edges(&planted), [(from.to_owned(), to.to_owned())]);
        }
    }
}

#[test]
fn crate_roots_forbid_unsafe() {
    let metadata = metadata();
    for package in packages(&metadata).iter().filter(|p| p["name"] != "wherry-block") {
        for target in package["targets"].as_array().unwrap() {
            let path = target["src_path"].as_str().unwrap();
            let shipped = target["kind"].as_array().unwrap().iter().any(|kind| kind == "lib" || kind == "bin");
            let text = fs::read_to_string(path).unwrap();
            assert!(!shipped || text.contains("#![forbid(unsafe_code)]"), "{path} lacks #![forbid(unsafe_code)]");
        }
    }
}

#[test]
fn unsafe_code_is_in_the_block_crate_only() {
    let block = root().join("daemon/block");
    for path in all_sources().iter().filter(|path| !path.starts_with(&block)) {
        assert!(!uses_unsafe(&fs::read_to_string(path).unwrap()), "unsafe code in {}", path.display());
    }
    for planted in ["    unsafe { x() }", "pub unsafe fn f() {}", "let a = unsafe { b };", "#[unsafe(no_mangle)]"] {
        assert!(uses_unsafe(planted), "{planted}");
    }
    for harmless in ["#![forbid(unsafe_code)]", "// unsafe { no }", "fn not_unsafe() {"] {
        assert!(!uses_unsafe(harmless), "{harmless}");
    }
}

#[test]
fn no_file_is_too_long() {
    let mut lengths: Vec<(usize, PathBuf)> = all_sources()
        .into_iter()
        .filter(|path| !is_test_file(path))
        .map(|path| (code_lines(&fs::read_to_string(&path).unwrap()), path))
        .collect();
    lengths.sort();
    lengths.reverse();
    for (lines, path) in lengths.iter().take(10) {
        println!("{lines:5} {}", path.strip_prefix(root()).unwrap().display());
    }
    let (lines, path) = &lengths[0];
    assert!(*lines <= LONGEST_FILE, "{} has {lines} lines of code, {LONGEST_FILE} are allowed", path.display());
}

#[test]
fn lines_are_counted_without_test_modules() {
    assert_eq!(code_lines("a\nb\n\n#[cfg(test)]\nmod tests {\n    x\n}\n"), 3);
    assert_eq!(code_lines("a\n#[cfg(test)]\nmod tests;\nb\n"), 4);
    assert_eq!(code_lines("a\n#[cfg(test)]\nfn helper() {}\nb\n"), 4);
}

#[test]
fn the_executable_is_passed_in_and_fresh() {
    let output = Command::new(wherry_bin()).arg("--version").output().unwrap();
    assert!(output.status.success());
}
