//! `qio relay` beside the relays it is compared with, in one run.
//!
//! `cargo bench -p qio-cli --bench relay [-- --quick] [-- --plain] [-- --tls] [-- --ws]
//! [-- --load=NAME] [-- PEER…]`
//!
//! Three tables: clients that speak plain TCP, TLS and WebSocket (all of them, or those that are
//! asked for; all loads, or those with NAME in theirs). Each load goes through every relay in turn, round after round, so that a drift of
//! the machine meets all of them; the tables show medians, and with plain clients each value as a
//! ratio to a bare splice loop and a bare copy loop in the same run. The CPU time is that of the relay alone, user and system.
//! Peers that are not installed, or do not start, are left out with a reason. `QIO_BIN` names
//! another binary of qio.

mod bare;
mod cgroup;
mod front;
mod load;
mod measure;
mod peer;
mod websocket;

use std::io::Result;

use front::Front;
use load::{Load, Scale};
use peer::Peer;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &args[..]
        && first == bare::SUBCOMMAND
    {
        return bare::run(rest);
    }
    if args.iter().any(|arg| arg == "--test") {
        return Ok(());
    }
    measure::raise_open_files();
    let scale = if args.iter().any(|arg| arg == "--quick") { Scale::QUICK } else { Scale::FULL };
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let asked = |front: &Front| args.contains(&format!("--{}", front.name()));
    let load = args.iter().find_map(|arg| arg.strip_prefix("--load="));
    let all = !Front::ALL.iter().any(asked);
    if let Err(error) = cgroup::Cgroup::make() {
        println!("left out: memory all told: no control group for it: {error}");
    }
    for front in Front::ALL.into_iter().filter(|front| all || asked(front)) {
        compare(front, scale, load, &wanted).print();
    }
    println!("\n{}", load::NOTES);
    Ok(())
}

fn compare(front: Front, scale: Scale, only: Option<&str>, wanted: &[&String]) -> Table {
    let mut peers = Peer::all();
    peers.retain(|peer| peer.has(front));
    if !wanted.is_empty() {
        peers
            .retain(|peer| peer.is_bare() || wanted.iter().any(|name| peer.name().contains(*name)));
    }
    peers.retain(|peer| match peer.check(front) {
        Ok(()) => true,
        Err(reason) => {
            println!("left out: {}: {}: {reason}", front.name(), peer.name());
            false
        }
    });

    let names = peers.iter().map(|peer| peer.name()).collect();
    let mut table = Table { front, peers: names, rows: vec![] };
    let is_asked_for = |load: &&Load| only.is_none_or(|only| load.name(front).contains(only));
    for &load in Load::all(front).iter().filter(is_asked_for) {
        let mut results = vec![Vec::new(); peers.len()];
        for round in 0..load.rounds(scale) {
            // Alternate, and let each peer come first in turn.
            for step in 0..peers.len() {
                let index = (step + round) % peers.len();
                match load.run(front, peers[index], scale) {
                    Ok(Some(value)) => results[index].push(value),
                    Ok(None) => {}
                    Err(error) => {
                        eprintln!("{}: {}: {error}", load.name(front), peers[index].name());
                    }
                }
            }
        }
        table.rows.push((load, results.into_iter().map(measure::median).collect()));
        eprintln!("measured: {}: {}", front.name(), load.name(front));
    }
    table
}

struct Table {
    front: Front,
    peers: Vec<&'static str>,
    rows: Vec<(Load, Vec<Option<f64>>)>,
}

impl Table {
    fn print(&self) {
        let show = |value: &Option<f64>| match *value {
            None => "–".to_owned(),
            Some(value) if value >= 100.0 => format!("{value:.0}"),
            Some(value) if value >= 10.0 => format!("{value:.1}"),
            Some(value) => format!("{value:.2}"),
        };
        println!("\nMedians, {}:\n", self.front.name());
        self.head(" promised |");
        let qio = self.peers.iter().position(|name| *name == Peer::Qio.name());
        for (load, values) in &self.rows {
            let cells: Vec<_> = values.iter().map(show).collect();
            let value = qio.and_then(|column| values[column]);
            let verdict = match (load.promise(self.front), value) {
                (Some(most), Some(value)) if value <= most => format!("{most} holds"),
                (Some(most), Some(_)) => format!("{most} BROKEN"),
                _ => "–".to_owned(),
            };
            println!("| {} | {} | {verdict} |", load.name(self.front), cells.join(" | "));
        }
        for control in ["splice loop", "copy loop"] {
            let Some(column) = self.peers.iter().position(|name| *name == control) else {
                continue;
            };
            println!("\nAs ratios to the bare {control}:\n");
            self.head("");
            for (load, values) in &self.rows {
                let ratio = |value: &Option<f64>| {
                    show(&value.zip(values[column].filter(|base| *base > 0.0)).map(|(a, b)| a / b))
                };
                let cells: Vec<_> = values.iter().map(ratio).collect();
                println!("| {} | {} |", load.name(self.front), cells.join(" | "));
            }
        }
    }

    fn head(&self, more: &str) {
        println!("| | {} |{more}", self.peers.join(" | "));
        let last = if more.is_empty() { "" } else { "---|" };
        println!("|---{}|{last}", "|---:".repeat(self.peers.len()));
    }
}
