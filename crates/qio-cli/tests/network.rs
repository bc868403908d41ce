//! The tool in networks that loopback cannot show, in namespaces of their own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Outcome, QIO, run};

/// A network in which 2001:db8::9 swallows every packet: it is on a wire whose other end is no
/// station. Everything goes when the script ends.
const NETWORK: &str = r#"
ip link set lo up
ip link add near type veth peer name far
ip link set near up
ip link set far up
ip addr add 2001:db8::1/64 dev near nodad
ip neigh add 2001:db8::9 lladdr 02:00:00:00:00:99 dev near nud permanent
ip neigh add 2001:db8::8 lladdr 02:00:00:00:00:88 dev near nud permanent
mount --bind "$FOLDER/hosts" /etc/hosts
until ip -6 route get 2001:db8::9 from 2001:db8::1 > /dev/null 2>&1; do :; done
"#;

const HOSTS: &str = "\
2001:db8::9 server
127.0.0.1 server
2001:db8::9 nowhere
2001:db8::8 nowhere
";

/// Runs the script in the network, with `$QIO` and `$FOLDER`; `None` where there can be none.
fn in_network(script: &str, folder: &Path) -> Option<Outcome> {
    fs::write(folder.join("hosts"), HOSTS).unwrap();
    let command = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount"]);
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["sh", "-ec", script]).env("QIO", QIO).env("FOLDER", folder);
        command
    };
    match command(NETWORK).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            println!("skipped: no namespaces with veth here: {}", reason.trim());
            return None;
        }
        Err(error) => {
            println!("skipped: unshare: {error}");
            return None;
        }
    }
    Some(run(&mut command(&[NETWORK, script].concat()), b""))
}

#[test]
fn a_relay_reaches_a_server_whose_first_address_answers_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        "$QIO" listen tcp://127.0.0.1:7 > "$FOLDER/received" &
        until grep -q ' 0100007F:0007 .* 0A ' /proc/net/tcp; do :; done
        "$QIO" relay --once 'exec:echo hello' tcp://server:7
        wait
    "#;
    let start = Instant::now();
    let Some(outcome) = in_network(script, folder.path()) else { return };
    let took = start.elapsed();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert_eq!(fs::read(folder.path().join("received")).unwrap(), b"hello\n");
    // An address that is waited for until it has had its share of the ten seconds costs five.
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_connect_in_vain_tells_of_every_address() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#""$QIO" connect --connect-timeout 300ms tcp://nowhere:7"#;
    let Some(outcome) = in_network(script, folder.path()) else { return };
    assert_eq!(outcome.status, 5, "{outcome:?}");
    let complaint = outcome.complaint();
    let (what, causes) = complaint.split_once("nowhere:7: ").unwrap();
    assert_eq!(what, "connect tcp://");
    let mut causes: Vec<_> = causes.split("; ").collect();
    causes.sort_unstable();
    assert_eq!(causes, ["[2001:db8::8]:7: timed out", "[2001:db8::9]:7: timed out"]);
}
