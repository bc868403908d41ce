//! The examples do what they say.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::Duration;

use qio_testkit::Job;
use qio_testkit::examples::{Running, example};

/// Where it listens.
fn address(of: &mut Running) -> String {
    of.line().strip_prefix("listening on tcp://").unwrap().to_owned()
}

fn dial(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

#[test]
fn every_example_of_a_loop_is_short() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let logic = folder.join("echo/mod.rs");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() < 80, "{}", path.display());
        let name = path.file_stem().unwrap().to_str().unwrap();
        let how = format!("--example {name} -- ");
        let header = text.lines().find(|line| line.contains(&how)).unwrap_or_default();
        assert!(header.starts_with("//! cargo run "), "{}", path.display());
    }
    assert!(fs::read_to_string(logic).unwrap().lines().count() < 80);
}

#[test]
fn the_echo_is_the_same_on_every_loop() {
    for name in
        ["echo_poll", "echo_calloop", "echo_glib", "echo_tokio", "echo_async_io", "echo_coroutine"]
    {
        let Some(mut command) = example(name) else { return };
        let mut server = Running::start(command.arg("listen:tcp://127.0.0.1:0"));
        let address = address(&mut server);
        // Three at a time, and one that is gone without a word.
        let mut clients: Vec<_> = (0..3).map(|_| dial(&address)).collect();
        drop(dial(&address));
        for round in 0..3 {
            for (at, client) in clients.iter_mut().enumerate().rev() {
                let text = format!("{name} {at} {round}");
                client.write_all(text.as_bytes()).unwrap();
                let mut answer = vec![0; text.len()];
                client.read_exact(&mut answer).unwrap();
                assert_eq!(String::from_utf8(answer).unwrap(), text);
            }
        }
        // More than any buffer, and the end after it.
        let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i * 31 + i / 251) as u8).collect();
        let mut client = clients.pop().unwrap();
        let (mut writer, sent) = (client.try_clone().unwrap(), data.clone());
        let writing = Job::start(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        writing.finish();
        assert!(got == data, "{name}: {} bytes", got.len());
        clients[0].write_all(b"still there").unwrap();
        clients[0].read_exact(&mut [0; 11]).unwrap();
    }
}

#[test]
fn in_the_chat_of_coroutines_everybody_reads_what_one_says() {
    let Some(mut command) = example("coroutine_chat") else { return };
    let mut chat = Running::start(command.arg("listen:tcp://127.0.0.1:0"));
    let address = address(&mut chat);
    let mut clients: Vec<TcpStream> = Vec::new();
    // Who says something has come in, and reads what is said from then on.
    for name in ["ann\n", "bob\n", "eve\n"] {
        clients.push(dial(&address));
        clients.last_mut().unwrap().write_all(name.as_bytes()).unwrap();
        all_read(&mut clients, name);
    }
    clients[1].write_all(b"to ").unwrap();
    clients[1].write_all(b"all\nand more\n").unwrap();
    all_read(&mut clients, "to all\nand more\n");
    let ann = clients.remove(0);
    ann.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&ann).read(&mut [0]).unwrap(), 0);
    clients[0].write_all(b"still here\n").unwrap();
    all_read(&mut clients, "still here\n");
}

fn all_read(clients: &mut [TcpStream], line: &str) {
    for client in clients {
        let mut text = vec![0; line.len()];
        client.read_exact(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), line);
    }
}

#[test]
fn three_kinds_of_channels_meet_in_one_calloop() {
    let Some(mut command) = example("calloop_three") else { return };
    // A program that does not hold its output back while it waits for more.
    let upper = r#"exec:sh -c 'while read -r line; do echo "$line" | tr a-z A-Z; done'"#;
    let mut three = Running::start(command.args(["listen:tcp://127.0.0.1:0", upper]));
    let address = address(&mut three);
    let (mut one, mut two) = (dial(&address), dial(&address));
    one.write_all(b"from one\n").unwrap();
    assert_eq!(three.line(), "FROM ONE");
    two.write_all(b"from two\n").unwrap();
    assert_eq!(three.line(), "FROM TWO");
    drop(one);
    two.write_all(b"bye\n").unwrap();
    assert_eq!(three.rest(), "BYE\n");
}

#[test]
fn lines_are_shown_in_the_main_loop_of_glib() {
    let Some(mut command) = example("glib_lines") else { return };
    let text = Running::start(command.arg("exec:printf 'one\\ntwo\\n\\nthe rest'")).rest();
    assert_eq!(text, "1: one\n2: two\n3: \n4: the rest\n");
}

#[test]
fn idle_connections_are_alive_on_tokio() {
    let Some(mut command) = example("idle_connections") else { return };
    let text = Running::start(command.arg("200")).rest();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("200 connections, each of which has said something, in "));
    let each: u64 = lines[1].split(' ').next().unwrap().parse().unwrap();
    assert!(each < 20_000, "{text}");
    assert_eq!(lines[2], "200 of them are alive");
}
