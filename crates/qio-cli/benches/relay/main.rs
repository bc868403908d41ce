//! `qio relay` beside the relays it is compared with, in one run.
//!
//! `cargo bench -p qio-cli --bench relay [-- --quick] [-- PEER…]`
//!
//! Each load goes through every relay in turn, round after round, so that a drift of the machine
//! meets all of them; the tables show medians, and each value as a ratio to a bare splice loop and
//! a bare copy loop in the same run. The CPU time is that of the relay alone, user and system.
//! Peers that are not installed, or do not start, are left out with a reason. `QIO_BIN` names
//! another binary of qio.

mod bare;
mod load;
mod measure;
mod peer;

use std::io::Result;

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
    let mut peers = Peer::all();
    if !wanted.is_empty() {
        peers
            .retain(|peer| peer.is_bare() || wanted.iter().any(|name| peer.name().contains(*name)));
    }
    peers.retain(|peer| match peer.check() {
        Ok(()) => true,
        Err(reason) => {
            println!("left out: {}: {reason}", peer.name());
            false
        }
    });

    let mut table = Table { peers: peers.iter().map(|peer| peer.name()).collect(), rows: vec![] };
    for load in Load::ALL {
        let mut results = vec![Vec::new(); peers.len()];
        for round in 0..load.rounds(scale) {
            // Alternate, and let each peer come first in turn.
            for step in 0..peers.len() {
                let index = (step + round) % peers.len();
                match load.run(&peers[index], scale) {
                    Ok(Some(value)) => results[index].push(value),
                    Ok(None) => {}
                    Err(error) => eprintln!("{}: {}: {error}", load.name(), peers[index].name()),
                }
            }
        }
        table.rows.push((load.name(), results.into_iter().map(measure::median).collect()));
        eprintln!("measured: {}", load.name());
    }
    table.print();
    println!("\n{}", load::NOTES);
    Ok(())
}

struct Table {
    peers: Vec<&'static str>,
    rows: Vec<(&'static str, Vec<Option<f64>>)>,
}

impl Table {
    fn print(&self) {
        let show = |value: &Option<f64>| match *value {
            None => "–".to_owned(),
            Some(value) if value >= 100.0 => format!("{value:.0}"),
            Some(value) if value >= 10.0 => format!("{value:.1}"),
            Some(value) => format!("{value:.2}"),
        };
        println!("\nMedians:\n");
        self.head();
        for (name, values) in &self.rows {
            let cells: Vec<_> = values.iter().map(show).collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
        for control in ["splice loop", "copy loop"] {
            let Some(column) = self.peers.iter().position(|name| *name == control) else {
                continue;
            };
            println!("\nAs ratios to the bare {control}:\n");
            self.head();
            for (name, values) in &self.rows {
                let ratio = |value: &Option<f64>| {
                    show(&value.zip(values[column].filter(|base| *base > 0.0)).map(|(a, b)| a / b))
                };
                let cells: Vec<_> = values.iter().map(ratio).collect();
                println!("| {name} | {} |", cells.join(" | "));
            }
        }
    }

    fn head(&self) {
        println!("| | {} |", self.peers.join(" | "));
        println!("|---{}|", "|---:".repeat(self.peers.len()));
    }
}
