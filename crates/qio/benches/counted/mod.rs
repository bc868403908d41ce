//! Operations whose instructions gungraun counts, each beside a control and under a bound.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// One operation: the benchmark of qio, that of its control, and what is promised.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) function: &'static str,
    pub(crate) control: &'static str,
    pub(crate) rounds: u64,
    pub(crate) bound: Bound,
}

pub(crate) enum Bound {
    AboveControl(u64),
    Total(u64),
    /// Times the control.
    Times(f64),
}

/// Has the runner count all of it, and prints the table. `run` is what the runner starts.
pub(crate) fn main(rows: &[Row], run: fn()) -> ExitCode {
    // The runner starts this program again, under valgrind, with this argument first.
    let is_benchmark = std::env::args().nth(1).is_some_and(|first| first == "--gungraun-run");
    if is_benchmark || std::env::var_os(RUN_GUNGRAUN).is_some() {
        run();
        return ExitCode::SUCCESS;
    }
    if std::env::args().any(|arg| arg == "--test") {
        return ExitCode::SUCCESS;
    }
    let home = std::env::temp_dir().join(format!("qio-instructions-{}", std::process::id()));
    let status = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(RUN_GUNGRAUN, "1")
            .env("GUNGRAUN_HOME", &home)
            .status()
    });
    let code = match status {
        Ok(status) if status.success() => report(rows, &home),
        Ok(status) => {
            eprintln!("gungraun ended with {status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("run gungraun: {error}");
            ExitCode::FAILURE
        }
    };
    // Only intermediate results: the table is what counts.
    let _ = std::fs::remove_dir_all(&home);
    code
}

const RUN_GUNGRAUN: &str = "QIO_BENCH_RUN_GUNGRAUN";

fn report(rows: &[Row], home: &Path) -> ExitCode {
    let mut files = Vec::new();
    collect(home, &mut files);
    println!("\n| user-space instructions | qio | raw | above raw | bound | |");
    println!("|---|---:|---:|---:|---|---|");
    let mut broken = false;
    for row in rows {
        let (Some(qio), Some(raw)) = (
            per_round(&files, row.function, row.rounds),
            per_round(&files, row.control, row.rounds),
        ) else {
            println!("| {} | | | | | not run |", row.name);
            continue;
        };
        let above = qio - raw;
        let (holds, bound) = match row.bound {
            Bound::AboveControl(most) => (above <= most as f64, format!("raw + {most}")),
            Bound::Total(most) => (qio <= most as f64, format!("{most} in all")),
            Bound::Times(most) => (qio <= raw * most, format!("raw x {most}")),
        };
        broken |= !holds;
        let verdict = if holds { "holds" } else { "BROKEN" };
        println!("| {} | {qio:.1} | {raw:.1} | {above:+.1} | {bound} | {verdict} |", row.name);
    }
    ExitCode::from(u8::from(broken))
}

/// Finds callgrind's results; the file is named after the benchmark.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "out") {
            files.push(path);
        }
    }
}

fn per_round(files: &[PathBuf], function: &str, rounds: u64) -> Option<f64> {
    let wanted = |path: &&PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        stem.split('.').any(|part| part == function)
    };
    let text = std::fs::read_to_string(files.iter().find(wanted)?).ok()?;
    let total = text.lines().find_map(|line| {
        line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: "))
    })?;
    let instructions: u64 = total.split_whitespace().next()?.parse().ok()?;
    Some(instructions as f64 / rounds as f64)
}
