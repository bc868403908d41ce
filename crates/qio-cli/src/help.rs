//! `qio help`, shell completions and the manual page.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::CommandFactory;
use qio::net::{Applies, Layer, Scheme, layers, schemes};

use crate::args::{Cli, HelpArgs};
use crate::exit::{Failure, STATUSES};

/// Prints a topic.
pub(crate) fn print(args: &HelpArgs) -> Result<(), Failure> {
    let text = match args.topic.as_deref() {
        None => Cli::command().render_help().to_string(),
        Some("addresses" | "address") => match args.detail.as_deref() {
            None => addresses(),
            Some(name) => match find_layer(name) {
                Some(found) => layer(found),
                None => scheme(find(name)?),
            },
        },
        Some("exit-codes" | "exit-code" | "status") => exit_codes(),
        Some(topic) => command(topic)?,
    };
    write(text.as_bytes())
}

/// Prints completions for a shell.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "qio", &mut script);
    write(&script)
}

/// Prints the manual page, with all commands, addresses and statuses.
pub(crate) fn manual() -> Result<(), Failure> {
    let mut page = Vec::new();
    let render = |page: &mut Vec<u8>| -> io::Result<()> {
        let command = Cli::command();
        clap_mangen::Man::new(command.clone()).render(page)?;
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = format!("qio {}", sub.get_name());
            verbatim(
                page,
                &name,
                &sub.clone().bin_name(name.clone()).render_long_help().to_string(),
            )?;
        }
        verbatim(page, "addresses", &addresses())?;
        verbatim(page, "exit status", &exit_codes())
    };
    render(&mut page).map_err(|error| Failure::io("manual", &error))?;
    write(&page)
}

/// A section of text that is shown as it is.
fn verbatim(page: &mut Vec<u8>, title: &str, text: &str) -> io::Result<()> {
    writeln!(page, ".SH {}\n.nf", title.to_uppercase())?;
    for line in text.lines() {
        let line = line.replace('\\', "\\e");
        // A line that starts with a dot or a quote would be a request to roff.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        writeln!(page, "{guard}{line}")?;
    }
    writeln!(page, ".fi")
}

fn addresses() -> String {
    let mut text = String::from(GRAMMAR);
    for scheme in schemes() {
        let listens = if scheme.can_listen() { "  (listen: too)" } else { "" };
        let _ = writeln!(text, "\n{}{listens}\n    {}", scheme.syntax, scheme.summary);
        for option in scheme.options {
            let _ = writeln!(text, "    ?{:<26} {}", option.syntax(), option_help(option));
        }
    }
    text.push_str(LAYERS);
    for layer in layers() {
        let _ = writeln!(text, "\n{}+\n    {}", layer.name, layer.summary);
        for option in layer.options {
            let _ = writeln!(text, "    ?{:<26} {}", option.syntax(), option_help(option));
        }
    }
    text.push_str("\nExamples:\n");
    let examples = schemes().iter().map(|scheme| scheme.examples);
    let examples = examples.chain(layers().iter().map(|layer| layer.examples));
    for example in examples.filter_map(|examples| examples.first()) {
        let _ = writeln!(text, "  {:<44} {}", example.address, example.meaning);
    }
    text
}

fn scheme(scheme: &Scheme) -> String {
    let mut text = format!("{}\n\n{}\n", scheme.syntax, scheme.summary);
    let listens = if scheme.can_listen() { "can" } else { "cannot" };
    let _ = writeln!(text, "It {listens} be listened on (listen:).");
    if !scheme.options.is_empty() {
        text.push_str("\nOptions:\n");
    }
    for option in scheme.options {
        let _ = writeln!(text, "  {}\n      {}", option.syntax(), option_help(option));
    }
    text.push_str("\nExamples:\n");
    for example in scheme.examples {
        let _ = writeln!(text, "  {}\n      {}", example.address, example.meaning);
    }
    text
}

fn layer(layer: &Layer) -> String {
    let mut text = format!("{}+SCHEME:TARGET\n\n{}\n", layer.name, layer.summary);
    text.push_str("It can be connected and listened with.\n\nOptions:\n");
    for option in layer.options {
        let _ = writeln!(text, "  {}\n      {}", option.syntax(), option_help(option));
    }
    text.push_str("\nExamples:\n");
    for example in layer.examples {
        let _ = writeln!(text, "  {}\n      {}", example.address, example.meaning);
    }
    text
}

fn option_help(option: &qio::net::OptionInfo) -> String {
    let mut text = option.help.to_owned();
    match option.applies {
        Applies::Connect => text.push_str(" (connecting only)"),
        Applies::Listen => text.push_str(" (listening only)"),
        _ => {}
    }
    if let Some(default) = option.default {
        let _ = write!(text, " [default: {default}]");
    }
    text
}

fn exit_codes() -> String {
    let mut text = String::from("Exit status:\n");
    for (status, meaning) in STATUSES {
        let _ = writeln!(text, "  {status:>3}  {meaning}");
    }
    text.push_str(
        "  128+N  ended by signal N\n
`qio connect` with exec: or pty: ends with the status of the program that it ran. `qio relay` with
listen: or reconnect-ms ends with 0 when it was told to stop; what happens to single connections is
said in lines about them. With --once, or with neither, the status is that of the one connection.\n",
    );
    text
}

fn find_layer(name: &str) -> Option<&'static Layer> {
    let bare = name.trim_end_matches([':', '/', '+']);
    // The short way to write ws+tls+tcp.
    let bare = if bare == "wss" { "ws" } else { bare };
    layers().iter().find(|layer| layer.name == bare)
}

fn find(name: &str) -> Result<&'static Scheme, Failure> {
    let bare = name.trim_end_matches([':', '/']);
    schemes().iter().find(|scheme| scheme.name == bare).ok_or_else(|| {
        let names = schemes().iter().map(|scheme| scheme.name);
        let names: Vec<_> = names.chain(layers().iter().map(|layer| layer.name)).collect();
        Failure::usage(format!("help addresses {name}: no such scheme ({})", hint(name, &names)))
    })
}

fn command(topic: &str) -> Result<String, Failure> {
    let mut cli = Cli::command();
    if let Some(command) = cli.find_subcommand_mut(topic) {
        let name = format!("qio {topic}");
        return Ok(command.clone().bin_name(name).render_long_help().to_string());
    }
    let mut topics = vec!["addresses", "exit-codes"];
    topics.extend(cli.get_subcommands().map(|command| command.get_name()));
    Err(Failure::usage(format!("help {topic}: no such topic ({})", hint(topic, &topics))))
}

/// The known name that was probably meant, or all of them.
fn hint(name: &str, known: &[&str]) -> String {
    // Two letters that changed places are one slip, however short the word.
    let near = |known: &&&str| match strsim::damerau_levenshtein(known, name) {
        0 | 1 => 1.0,
        _ => strsim::jaro_winkler(known, name),
    };
    match known.iter().max_by(|a, b| near(a).total_cmp(&near(b))) {
        Some(best) if near(&best) >= NEAR => format!("did you mean {best}?"),
        _ => format!("there are {}", known.join(", ")),
    }
}

/// How alike two words are when one is a slip of the other: a letter or two in five.
const NEAR: f64 = 0.75;

/// Writes to standard output; a reader that left early is no failure.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("standard output", &error))
        }
        _ => Ok(()),
    }
}

const LAYERS: &str = "
Layers stand in front of the scheme, joined with +, the one nearest to the data first: in
ws+tls+tcp://HOST:PORT, WebSocket goes through TLS, and that through TCP. ws://HOST[:PORT]/PATH is
ws+tcp with port 80, wss://HOST[:PORT]/PATH is ws+tls+tcp with port 443. With listen: they play the
server; throttle and tap concern this side alone, and the other side needs none. A key is for the
leftmost part that knows it; tls.KEY is for the layer tls, tls2.KEY for the second of two.
";

const GRAMMAR: &str = "\
Addresses:  [listen:][LAYER+...]SCHEME:TARGET[?KEY[=VALUE][&KEY[=VALUE]]...]

Two slashes may stand after the scheme: tcp://host:port. The first ? starts the options. %XX
stands for a byte in targets and values (%3F for a question mark, %26 for an ampersand). A key
without a value is on. Quote addresses for the shell: ? and & mean something to it.

qemu:TEXT is an address as QEMU writes it, with what QEMU means when nothing is said:
qemu:db.example:5432,ipv4=on, listen:qemu::5900, qemu:unix:/run/x.sock,server=on,wait=off.

With ?retry=N an opening that fails for now (refused, unreachable, no such socket, no answer in
time, a busy name server) is tried again, after 0.1 s and then twice as long each time, up to 5 s.
With ?reconnect-ms=MS the pause is always MS, and there is no end of attempts unless retry= sets
one. An address with it is also opened again when its connection has ended: `qio relay` without
listen: joins its two addresses anew until a signal stops it, `qio connect` goes on until its
standard input ends. For a client of a listening relay the attempts go on for --connect-timeout.
";
