//! The pages of `docs/manual`: their links, that their code is tested, and that the table of
//! `porting.md` has the names of QEMU that items carry.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use qio_testkit::sources::{rust_files, workspace};

#[test]
fn every_rust_name_in_the_table_is_an_item_that_carries_the_name_of_qemu() {
    let aliases = aliases();
    let mut broken = Vec::new();
    for (qemu, rust) in table() {
        let carriers = aliases.get(&qemu);
        if rust.is_empty() && carriers.is_some() {
            broken.push(format!("{qemu}: has no counterpart, but {carriers:?} carries the name"));
        }
        for name in rust {
            let found = carriers.is_some_and(|items| items.iter().any(|item| item.is(&name)));
            if !found {
                broken.push(format!("{qemu}: no {name} with this alias, only {carriers:?}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_name_of_a_function_of_qemu_that_an_item_carries_is_in_the_table() {
    let table: BTreeSet<String> = table().into_iter().map(|(qemu, _)| qemu).collect();
    let missing: Vec<_> = aliases()
        .into_iter()
        .filter(|(qemu, _)| qemu.starts_with("qio_") && !table.contains(qemu))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_table_has_each_function_once_and_all_of_the_first_header() {
    let names: Vec<String> = table().into_iter().map(|(qemu, _)| qemu).collect();
    let once: BTreeSet<_> = names.iter().cloned().collect();
    assert_eq!(names.len(), once.len(), "a name is there twice");
    for short in FIRST_HEADER {
        assert!(once.contains(&format!("qio_channel_{short}")), "{short}");
    }
}

#[test]
fn every_page_is_in_the_index_and_its_code_is_tested() {
    let index = fs::read_to_string(manual().join("README.md")).unwrap();
    let included: String = ["qio", "qio-adapters"]
        .map(|package| workspace().join("crates").join(package).join("src/lib.rs"))
        .map(|lib| fs::read_to_string(lib).unwrap())
        .concat();
    for (name, text) in pages() {
        assert!(name == "README.md" || index.contains(&format!("]({name})")), "{name}");
        if text.contains("```rust") {
            let include = format!("include_str!(\"../../../docs/manual/{name}\")");
            assert!(included.contains(&include), "{name} is not tested");
        }
    }
}

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let mut broken = Vec::new();
    for (name, text) in pages() {
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| link.contains(".md")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = fs::read_to_string(manual().join(file)).unwrap_or_default();
            let headings = target.lines().filter(|line| line.starts_with('#')).map(anchor_of);
            let leads = if anchor.is_empty() {
                !target.is_empty()
            } else {
                headings.into_iter().any(|heading| heading == anchor)
            };
            if !leads {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// What a heading is called in links, by the rule of the forges.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn pages() -> Vec<(String, String)> {
    let entries = fs::read_dir(manual()).unwrap().map(|entry| entry.unwrap());
    let pages: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    assert!(pages.len() > 1);
    pages
}

fn manual() -> PathBuf {
    workspace().join("docs/manual")
}

/// The functions of the channel's header when it was new.
const FIRST_HEADER: &[&str] = &[
    "has_feature",
    "set_feature",
    "set_name",
    "readv_full",
    "writev_full",
    "readv_all_eof",
    "readv_all",
    "writev_all",
    "readv",
    "writev",
    "read",
    "read_all_eof",
    "read_all",
    "write",
    "write_all",
    "set_blocking",
    "close",
    "shutdown",
    "set_delay",
    "set_cork",
    "io_seek",
    "create_watch",
    "add_watch",
    "add_watch_full",
    "add_watch_source",
    "attach_aio_context",
    "detach_aio_context",
    "yield",
    "wait",
    "set_aio_fd_handler",
];

/// An item that carries an alias.
#[derive(Debug)]
struct Item {
    /// The trait or type that it is in, or its own module's path.
    within: Vec<String>,
    name: String,
}

impl Item {
    /// Whether `path` (`ChannelExt::read`, `net::connect`, `Task`) names it.
    fn is(&self, path: &str) -> bool {
        match path.rsplit_once("::") {
            Some((within, name)) => name == self.name && self.within.iter().any(|is| is == within),
            None => path == self.name,
        }
    }
}

/// The rows of the tables: a name of QEMU, and the Rust names beside it.
fn table() -> Vec<(String, Vec<String>)> {
    let page = fs::read_to_string(manual().join("porting.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        let names = |cell: &str| -> Vec<String> {
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        assert!(!names(cells[2]).is_empty() || cells[2].trim() == "none", "{row}");
        (names(cells[1]).remove(0), names(cells[2]))
    })
    .collect()
}

/// Which items carry which alias.
fn aliases() -> BTreeMap<String, Vec<Item>> {
    let mut found: BTreeMap<String, Vec<Item>> = BTreeMap::new();
    for package in ["qio", "qio-adapters"] {
        let root = workspace().join("crates").join(package).join("src");
        for file in rust_files(&root) {
            let module = file.strip_prefix(&root).unwrap().with_extension("");
            let module: Vec<_> =
                module.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            note_aliases(&fs::read_to_string(&file).unwrap(), &module, &mut found);
        }
    }
    found
}

fn note_aliases(code: &str, module: &[String], found: &mut BTreeMap<String, Vec<Item>>) {
    let mut owner = None;
    let mut pending: Vec<String> = Vec::new();
    for line in code.lines() {
        if let Some(alias) = line.trim().strip_prefix("#[doc(alias = \"") {
            pending.push(alias.trim_end_matches("\")]").to_owned());
            continue;
        }
        let words: Vec<_> = line
            .split(|c: char| !c.is_alphanumeric() && c != '_' && c != '#' && c != '/')
            .filter(|word| !word.is_empty())
            .collect();
        let is_item = ["fn", "struct", "enum", "trait", "const", "type"];
        let keyword = words.iter().position(|word| is_item.contains(word));
        let is_comment = words.first().is_some_and(|word| word.starts_with("//"));
        if is_comment || words.first().is_some_and(|word| word.starts_with('#')) {
            continue;
        }
        if !line.starts_with(' ') && (line.starts_with("impl") || line.contains("trait ")) {
            owner = owner_of(line);
        }
        if let Some(name) = keyword.and_then(|at| words.get(at + 1))
            && !pending.is_empty()
        {
            let within = match line.starts_with(' ') {
                true => owner.iter().cloned().collect(),
                false => module.to_vec(),
            };
            for alias in pending.drain(..) {
                let item = Item { within: within.clone(), name: (*name).to_owned() };
                found.entry(alias).or_default().push(item);
            }
        }
    }
}

/// The type or trait that a line begins the body of: `impl<T> Task<T> {`, `pub trait Channel: Any {`.
fn owner_of(line: &str) -> Option<String> {
    let line = line.split(" where ").next()?;
    let of = match line.rsplit_once(" for ") {
        Some((_, of)) => of.to_owned(),
        None => match line.split_once("trait ") {
            Some((_, of)) => of.to_owned(),
            // Behind the generics, which may be nested.
            None => {
                let mut depth = 0;
                let rest = line.trim_start_matches("impl");
                let end = rest.char_indices().find(|&(_, c)| {
                    depth += i32::from(c == '<') - i32::from(c == '>');
                    depth == 0
                });
                let (at, first) = end?;
                rest[at + if first == '>' { 1 } else { 0 }..].to_owned()
            }
        },
    };
    let name = of.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    Some(name.to_owned())
}
