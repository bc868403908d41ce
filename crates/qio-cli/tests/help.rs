//! Help, the manual page and completions.
//!
//! The help texts are committed: run with `QIO_UPDATE_HELP=1` to write them anew.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{is_installed, qio, run};

const COMMANDS: [&str; 9] =
    ["relay", "connect", "listen", "probe", "demo", "tap", "help", "completions", "man"];

fn help(args: &[&str]) -> String {
    let outcome = run(&mut qio(args), b"");
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""), "{args:?}");
    outcome.text().to_owned()
}

#[test]
fn help_texts_are_those_that_are_committed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let mut texts = vec![
        ("qio".to_owned(), help(&["--help"])),
        ("addresses".to_owned(), help(&["help", "addresses"])),
        ("exit-codes".to_owned(), help(&["help", "exit-codes"])),
    ];
    texts.extend(COMMANDS.map(|name| (format!("qio-{name}"), help(&[name, "--help"]))));
    for (name, text) in texts {
        let path = folder.join(name).with_extension("txt");
        if std::env::var_os("QIO_UPDATE_HELP").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(committed, text, "{}: see the top of this file", path.display());
    }
}

#[test]
fn the_help_fits_a_screen() {
    let text = help(&["--help"]);
    assert!(text.lines().count() <= 24, "{text}");
    for line in text.lines() {
        assert!(line.len() <= 80, "too long for a terminal of 80 columns: {line}");
    }
    assert_eq!(text, help(&["help"]));
    assert_eq!(text, help(&["-h"]));
}

#[test]
fn each_command_shows_three_examples() {
    for name in COMMANDS {
        let text = help(&[name, "--help"]);
        let (_, examples) = text.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{name}"));
        let count = examples.lines().filter(|line| line.contains(&format!("qio {name}"))).count();
        assert!(count >= 3, "{name} has {count}");
    }
}

#[test]
fn the_addresses_of_examples_are_good_ones() {
    for name in ["relay", "connect", "listen", "probe"] {
        let text = help(&[name, "--help"]);
        let (_, examples) = text.split_once("\nExamples:\n").unwrap();
        let commands = examples.lines().filter(|line| line.contains("qio "));
        let words = commands.filter_map(shlex::split).flatten();
        let addresses = words.filter(|word| {
            qio::net::schemes().iter().any(|scheme| {
                let word = word.strip_prefix("listen:").unwrap_or(word);
                // In front of it there may be layers, or it may be a short word for them.
                let word = word.rsplit_once('+').map_or(word, |(_, rest)| rest);
                let short = ["ws:", "wss:"].iter().any(|short| word.starts_with(short));
                short || word.strip_prefix(scheme.name).is_some_and(|rest| rest.starts_with(':'))
            })
        });
        let mut count = 0;
        for address in addresses {
            address.parse::<qio::Address>().unwrap_or_else(|error| panic!("{}", error.report()));
            count += 1;
        }
        assert!(count >= 3, "{name}: {count}");
    }
}

#[test]
fn every_scheme_and_option_is_explained() {
    let all = help(&["help", "addresses"]);
    for scheme in qio::net::schemes() {
        assert!(all.contains(scheme.syntax), "{}", scheme.name);
        let one = help(&["help", "addresses", scheme.name]);
        for option in scheme.options {
            assert!(all.contains(&format!("?{}", option.syntax())), "{}", option.name);
            assert!(one.contains(option.help), "{} of {}", option.name, scheme.name);
        }
        for example in scheme.examples {
            assert!(one.contains(example.address), "{} of {}", example.address, scheme.name);
        }
    }
    for layer in qio::net::layers() {
        assert!(all.contains(&format!("\n{}+\n    {}", layer.name, layer.summary)));
        let one = help(&["help", "addresses", layer.name]);
        for option in layer.options {
            assert!(all.contains(&format!("?{}", option.syntax())), "{}", option.name);
            assert!(one.contains(option.help), "{} of {}", option.name, layer.name);
        }
        for example in layer.examples {
            assert!(one.contains(example.address), "{} of {}", example.address, layer.name);
            // A secret or a number stands where the example has a word.
            let address = example.address.replace("SHA256", &"ab".repeat(32));
            address.parse::<qio::Address>().unwrap_or_else(|error| panic!("{}", error.report()));
        }
    }
    // The way they are written in an address is understood, too.
    assert_eq!(help(&["help", "addresses", "tcp://"]), help(&["help", "addresses", "tcp"]));
}

#[test]
fn every_status_is_explained() {
    let text = help(&["help", "exit-codes"]);
    for status in 0..=7 {
        assert!(text.lines().any(|line| line.starts_with(&format!("    {status}  "))), "{text}");
    }
}

#[test]
fn a_topic_that_does_not_exist_is_bad_usage_with_a_hint() {
    for (args, hint) in [
        (&["help", "adresses"][..], "(did you mean addresses?)"),
        (&["help", "conect"], "(did you mean connect?)"),
        (&["help", "nosuch"], "(there are addresses, exit-codes, relay, "),
        (&["help", "addresses", "tpc"], "(did you mean tcp?)"),
        (&["help", "addresses", "nosuch"], "(there are tcp, unix, "),
    ] {
        let outcome = run(&mut qio(args), b"");
        assert!(outcome.complaint().contains(hint), "{outcome:?}");
        assert_eq!(outcome.status, 2);
    }
}

#[test]
fn the_manual_page_holds_everything_and_formats_without_a_warning() {
    let page = help(&["man"]);
    for part in ["QIO RELAY", "QIO CONNECT", "ADDRESSES", "EXIT STATUS", "tcp://HOST:PORT"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(page.is_ascii());
    if is_installed("groff") {
        let outcome = run(Command::new("groff").args(["-man", "-Tascii", "-ww"]), page.as_bytes());
        assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
        assert!(outcome.stdout.len() > page.len() / 2);
    }
}

#[test]
fn completions_are_scripts_that_their_shells_accept() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = help(&["completions", shell]);
        assert!(script.contains("max-connections"), "{shell}");
        if matches!(shell, "bash" | "zsh" | "fish") && is_installed(shell) {
            let outcome = run(Command::new(shell).arg("-n"), script.as_bytes());
            assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""), "{shell}");
        }
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    assert_eq!(help(&["--version"]), format!("qio {}\n", env!("CARGO_PKG_VERSION")));
}
