//! The rules of the house that the compiler does not check.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use qio_testkit::sources::{rust_files, workspace};

/// What each module of `qio` may name; modules that are not listed may not exist.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("trace", &[]),
    ("error", &[]),
    ("interest", &[]),
    ("watch", &["error", "interest"]),
    ("crew", &[]),
    ("task", &["crew", "error", "interest", "watch"]),
    ("channel", &["error", "interest", "watch"]),
    ("transport", &["channel", "error", "interest", "task", "watch"]),
    ("layer", &["channel", "error", "interest", "task", "watch"]),
    (
        "net",
        &["channel", "crew", "error", "interest", "layer", "relay", "task", "transport", "watch"],
    ),
    ("relay", &["channel", "error", "interest", "layer", "task", "transport", "watch"]),
];

#[test]
fn a_module_names_only_modules_below_it() {
    let exports = exports();
    let mut broken = Vec::new();
    for file in sources(&workspace().join("crates/qio/src")) {
        let inside = file.path.strip_prefix(workspace().join("crates/qio/src")).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = module.strip_suffix(".rs").unwrap_or(module);
        if module == "lib" {
            continue;
        }
        let may = MAY_NAME.iter().find(|(name, _)| *name == module);
        let Some((_, may)) = may else {
            broken.push(format!("{module}: a module that this test does not know"));
            continue;
        };
        for named in modules_named(&file.code) {
            let named = exports.get(&named).unwrap_or(&named);
            if *named != module && !may.contains(&named.as_str()) {
                broken.push(format!("{}: {module} names {named}", inside.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn names_of_modules_are_found_in_every_form() {
    let code = "
        use crate::channel::{Base, Channel};
        use crate::{interest::{Interest}, watch};
        use crate::{
            net::Address,
            error::{plain, Error},
            Channel,
        };
        fn f() { crate::relay::run(); }
        pub(crate) struct S(crate :: task::Task);
    ";
    let named = modules_named(&without_comments_and_tests(code));
    let expected = ["Channel", "channel", "error", "interest", "net", "relay", "task", "watch"];
    assert_eq!(named, expected.map(str::to_owned).into());
    assert_eq!(exports()["Interest"], "interest");
}

#[test]
fn unsafe_code_is_only_where_it_is_argued() {
    let mut broken = Vec::new();
    for file in workspace_sources() {
        // The tool's start is where inherited descriptors are taken over.
        let may = ["qio-os", "qio-adapters", "qio-capi"].contains(&file.package.as_str())
            || file.path.ends_with("qio-cli/src/inherited.rs");
        if !may && words(&file.code).any(|word| word == "unsafe") {
            broken.push(file.path);
        }
    }
    assert!(broken.is_empty(), "unsafe in {broken:#?}");
    for package in ["qio", "qio-testkit"] {
        let lib = workspace().join("crates").join(package).join("src/lib.rs");
        let lib = fs::read_to_string(lib).unwrap();
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{package}");
    }
}

#[test]
fn only_the_tool_prints_and_exits() {
    let forbidden =
        ["println!", "eprintln!", "print!", "eprint!", "dbg!", "process::exit", "process::abort"];
    let mut broken = Vec::new();
    for file in workspace_sources() {
        // The test kit ends a process that hangs.
        if ["qio-cli", "qio-testkit"].contains(&file.package.as_str()) {
            continue;
        }
        for word in forbidden {
            if file.code.contains(word) {
                broken.push(format!("{}: {word}", file.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_protocols_cannot_do_input_or_output() {
    let package = workspace().join("crates/qio-proto");
    let lib = fs::read_to_string(package.join("src/lib.rs")).unwrap();
    assert!(lib.contains("\n#![no_std]\n") && lib.contains("\n#![forbid(unsafe_code)]\n"));
    let mut broken = Vec::new();
    for file in sources(&package.join("src")) {
        if words(&file.code).any(|word| word == "std") {
            broken.push(format!("{}: std", file.path.display()));
        }
    }
    // Each of them is `no_std` as the workspace asks for it.
    let without_std = ["base64", "httparse", "sha1"];
    let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
    let all = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    for name in dependencies(&manifest) {
        let line = all.lines().find(|line| line.starts_with(&format!("{name} = ")));
        let line = line.unwrap_or_default();
        let has_std = !line.contains("default-features = false") || line.contains("\"std\"");
        if !without_std.contains(&name) || has_std {
            broken.push(format!("{name}: a dependency that may need std"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The names in the table `[dependencies]` of a manifest, and in none of its others.
fn dependencies(manifest: &str) -> Vec<&str> {
    let (_, table) = manifest.split_once("\n[dependencies]\n").unwrap();
    let lines = table.lines().take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|n| !n.is_empty()).collect()
}

/// The numbers of the lessons: 33 rules and 146 defects.
fn lessons() -> impl Iterator<Item = String> {
    (1..=33).map(|n| format!("R{n}")).chain((1..=146).map(|n| n.to_string()))
}

#[test]
fn every_lesson_has_a_test_that_exists_or_a_reason() {
    let path = workspace().join("docs/lessons-coverage.md");
    let Ok(table) = fs::read_to_string(&path) else {
        println!("skipped: {} does not exist", path.display());
        return;
    };
    let mut sources = String::new();
    for dir in fs::read_dir(workspace().join("crates")).unwrap() {
        // Tests too, which the other rules leave out.
        for path in rust_files(&dir.unwrap().path()) {
            sources.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    let mut functions: BTreeSet<&str> = BTreeSet::new();
    let mut before = "";
    for word in words(&sources) {
        if before == "fn" {
            functions.insert(word);
        }
        before = word;
    }
    let problems = coverage_problems(&table, &functions);
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_table_of_lessons_is_checked() {
    let mut table = "| # | Test or reason |\n|---|---|\n".to_owned();
    for lesson in lessons() {
        match lesson.as_str() {
            "R2" => table += "| R2 | `there_is_none` |\n",
            "R3" => table += "| R3 | |\n",
            "R4" => {}
            "5" => table += "| 5 | none: ownership rules it out |\n",
            "6" => table += "| 6 | see elsewhere |\n",
            other => table += &format!("| {other} | `a_test`, `module::another_test` |\n"),
        }
    }
    let problems = coverage_problems(&table, &["a_test", "another_test"].into());
    let expected = [
        "R2: there is no test `there_is_none`",
        "R3: neither a test nor `none: reason`",
        "6: neither a test nor `none: reason`",
        "R4: no row",
    ];
    assert_eq!(problems, expected);
}

fn coverage_problems(table: &str, functions: &BTreeSet<&str>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut missing: Vec<String> = lessons().collect();
    for line in table.lines() {
        let mut cells = line.trim().trim_matches('|').splitn(2, '|').map(str::trim);
        let (Some(number), Some(text)) = (cells.next(), cells.next()) else { continue };
        if !lessons().any(|lesson| lesson == number) {
            continue;
        }
        missing.retain(|lesson| lesson != number);
        let is_name = |part: &&str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c))
        };
        let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_name).collect();
        let reason = text.strip_prefix("none:").is_some_and(|reason| !reason.trim().is_empty());
        if named.is_empty() && !reason {
            problems.push(format!("{number}: neither a test nor `none: reason`"));
        }
        // A reason may quote what it likes.
        for name in named.iter().filter(|_| !reason) {
            let function = name.rsplit("::").next().unwrap_or(name);
            if !functions.contains(function) {
                problems.push(format!("{number}: there is no test `{name}`"));
            }
        }
    }
    problems.extend(missing.into_iter().map(|lesson| format!("{lesson}: no row")));
    problems
}

struct Source {
    package: String,
    path: PathBuf,
    /// Without comments, strings and test modules.
    code: String,
}

/// The sources of every package, without their tests.
fn workspace_sources() -> Vec<Source> {
    let packages = fs::read_dir(workspace().join("crates")).unwrap();
    packages.flat_map(|package| sources(&package.unwrap().path().join("src"))).collect()
}

fn sources(dir: &Path) -> Vec<Source> {
    let package = dir.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let files = rust_files(dir).into_iter().filter(|path| !path.ends_with("tests.rs"));
    let read = |path: PathBuf| {
        let code = without_comments_and_tests(&fs::read_to_string(&path).unwrap());
        Source { package: package.to_owned(), path, code }
    };
    let all: Vec<Source> = files.map(read).collect();
    assert!(!all.is_empty(), "{}: no sources", dir.display());
    all
}

/// rustfmt writes the end of a module at the indentation of its start.
fn without_comments_and_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let indent = &line[..line.len() - line.trim_start().len()];
        if line.trim_start().starts_with("#[cfg(test)]") {
            let end = format!("{indent}}}");
            // A single item on one line (`mod tests;`, `use …;`) ends with itself.
            let next = lines.next().unwrap_or_default();
            if !next.trim_end().ends_with(';') {
                let _body = lines.by_ref().take_while(|line| **line != end).count();
            }
            continue;
        }
        if line.trim_start().starts_with("//") {
            continue;
        }
        // Text in quotes is no code; a quote in quotes ends the line early, which does no harm.
        let without_text: String = line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
        code.push_str(without_text.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The modules of this crate that a file names: `crate::a::…` and `crate::{a::…, b}`.
fn modules_named(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let code = code.replace("crate ::", "crate::");
    for after in code.split("crate::").skip(1) {
        if let Some(list) = after.strip_prefix('{') {
            let mut depth = 1;
            let mut item = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && c == ',') {
                    named.extend(words(&item).next().map(str::to_owned));
                    item.clear();
                } else {
                    item.push(c);
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            named.extend(words(after).next().map(str::to_owned));
        }
    }
    named
}

/// What `lib.rs` re-exports, and the module it comes from: `crate::Channel` names `channel`.
fn exports() -> BTreeMap<String, String> {
    let lib = fs::read_to_string(workspace().join("crates/qio/src/lib.rs")).unwrap();
    let lib = without_comments_and_tests(&lib);
    let mut exports = BTreeMap::new();
    for statement in lib.split(';').filter_map(|text| text.trim().strip_prefix("pub use ")) {
        let mut names = words(statement);
        let module = names.next().unwrap_or_default();
        exports.extend(names.map(|name| (name.to_owned(), module.to_owned())));
    }
    assert!(exports.get("Channel").is_some_and(|module| module == "channel"), "{exports:?}");
    exports
}
