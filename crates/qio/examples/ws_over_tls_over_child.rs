//! WebSocket over TLS over the standard streams of a program: layers go over any channel.
//!
//! ```sh
//! cargo run -p qio --features tls --example ws_over_tls_over_child
//! ```
//!
//! The program is this one, started again. It makes a certificate, says its fingerprint over the
//! pipe, which is private, and from there on both speak TLS, and WebSocket in it.

use std::error::Error;
use std::ops::ControlFlow;

use qio::ChannelExt;
use qio::layer::tls::{self, ClientSettings, Fingerprint, SelfSigned, ServerSettings};
use qio::layer::ws::{self, ClientOptions, ServerOptions};
use qio::transport::{Command, Pipe};
use qio::watch::{Steps, run};

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("child") => child(),
        _ => parent(),
    }
}

fn parent() -> Result<(), Box<dyn Error>> {
    let child = Command::new(std::env::current_exe()?).arg("child").spawn()?;
    let mut fingerprint = [0; 64];
    child.read_exact(&mut fingerprint)?;
    let pin: Fingerprint = std::str::from_utf8(&fingerprint)?.parse()?;

    let settings = ClientSettings::new().pin(pin);
    let name = settings.server_name(Some("localhost"))?;
    let secure = finished(tls::client(child, settings.build()?, name, None)?)?;
    let facts = secure.handshake().facts();
    let secure = secure.into_layer(tls::NAME);
    let channel = finished(ws::client(secure, ClientOptions::new("localhost"), None)?)?;
    let channel = channel.into_layer(ws::NAME);
    println!("{}, {}", channel.name(), facts.version_text().unwrap_or_default());

    channel.write_all(b"hello")?;
    let mut answer = [0; 5];
    channel.read_exact(&mut answer)?;
    println!("the child says {}", String::from_utf8_lossy(&answer));
    channel.finish_all(None)?;
    // The child's farewell, through both layers.
    println!("{} bytes after that", channel.read(&mut answer)?);
    Ok(())
}

fn child() -> Result<(), Box<dyn Error>> {
    let made = SelfSigned::generate(["localhost"])?;
    let stdio = Pipe::stdio()?;
    stdio.write_all(made.fingerprint().to_string().as_bytes())?;

    let config = ServerSettings::new().identity(made.identity()).build()?;
    let secure = finished(tls::server(stdio, config, None)?)?.into_layer(tls::NAME);
    let channel = finished(ws::server(secure, ServerOptions::default(), None))?;
    let channel = channel.into_layer(ws::NAME);
    let mut text = [0; 5];
    while channel.read_exact_or_eof(&mut text)? {
        text.make_ascii_uppercase();
        channel.write_all(&text)?;
    }
    Ok(channel.finish_all(None)?)
}

/// Waits for a handshake on this thread.
fn finished<T>(steps: impl Steps<Output = std::io::Result<T>>) -> std::io::Result<T> {
    match run(steps, None)? {
        ControlFlow::Break(result) => result,
        ControlFlow::Continue(_) => unreachable!("there is no deadline here"),
    }
}
