//! `qio demo`.

mod common;

use common::{qio, run};

#[test]
fn the_demonstration_brings_the_data_back_unchanged() {
    let outcome = run(&mut qio(["demo", "--size", "8"]), b"");
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    let digest = |name: &str| {
        let line = outcome.text().lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    };
    let sent = digest("sha256 sent");
    assert!(sent.len() == 64 && sent.bytes().all(|byte| byte.is_ascii_hexdigit()), "{sent}");
    assert_eq!(sent, digest("sha256 received"));
    assert_eq!(outcome.text().matches("8.00 MiB").count(), 11, "{}", outcome.text());
}

#[test]
fn its_result_can_be_had_as_json() {
    let outcome = run(&mut qio(["demo", "--size", "4", "--json"]), b"");
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    let result: serde_json::Value = serde_json::from_str(outcome.text()).unwrap();
    assert_eq!(result["bytes"], 4 * 1024 * 1024);
    assert_eq!(result["equal"], true);
    assert_eq!(result["digest_out"], result["digest_back"]);
    let hops = result["hops"].as_array().unwrap();
    assert_eq!(hops.len(), 5);
    for hop in hops {
        assert_eq!((&hop["there"], &hop["back"]), (&result["bytes"], &result["bytes"]), "{hop}");
    }
}

#[test]
fn its_commands_can_be_typed_where_they_are_shown() {
    let own = format!("  {} relay listen:unix:", common::QIO);
    for there in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        // The demonstration runs it.
        std::os::unix::fs::symlink("/bin/cat", folder.path().join("cat")).unwrap();
        if there {
            std::fs::write(folder.path().join("qio"), "").unwrap();
        }
        let outcome = run(qio(["demo", "--size", "1"]).env("PATH", folder.path()), b"");
        assert_eq!(outcome.status, 0, "{outcome:?}");
        let line = if there { "  qio relay listen:unix:" } else { &*own };
        assert!(outcome.text().contains(line), "{}", outcome.text());
    }
}

#[test]
fn a_folder_that_does_not_exist_is_named() {
    let outcome = run(qio(["demo", "--size", "1"]).env("TMPDIR", "/nonexistent"), b"");
    let line = outcome.complaint();
    assert!(line.starts_with("demo: create /nonexistent/qio-demo-"), "{line}");
    assert!(line.ends_with(": no such file or directory"), "{line}");
    assert_eq!(outcome.status, 1);
}

#[test]
fn it_leaves_no_folder_behind() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(qio(["demo", "--size", "1"]).env("TMPDIR", folder.path()), b"");
    assert_eq!(outcome.status, 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
