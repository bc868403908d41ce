//! An echo over TLS and a Unix socket: the server makes a certificate for itself, and the client
//! believes that one and no other.
//!
//! ```sh
//! cargo run -p qio --features tls --example tls_echo -- serve /tmp/echo.sock
//! # It prints the address that clients need, with the fingerprint of its certificate:
//! cargo run -p qio --features tls --example tls_echo -- ask 'tls+unix:/tmp/echo.sock?pin=…' hello
//! ```

use std::error::Error;
use std::sync::Arc;
use std::thread;

use qio::net::{ConnectOptions, ListenOptions, connect, listen};
use qio::{Channel, ChannelExt};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", path] => serve(path),
        ["ask", address, text] => ask(address, text),
        _ => Err("usage: tls_echo serve PATH, or tls_echo ask ADDRESS TEXT".into()),
    }
}

fn serve(path: &str) -> Result<(), Box<dyn Error>> {
    let address = format!("listen:tls+unix:{path}?self-signed").parse()?;
    let listener = listen(&address, &ListenOptions::new())?;
    println!("{}", listener.local_addresses()[0]);
    loop {
        // Whoever comes out here has the handshake behind it; others hold nobody up.
        let client = listener.accept(None)?;
        thread::spawn(move || {
            if let Err(error) = echo(&client.channel) {
                eprintln!("{}: {error}", client.peer);
            }
        });
    }
}

fn echo(client: &Arc<dyn Channel>) -> std::io::Result<()> {
    let mut buf = [0; 16 * 1024];
    loop {
        match client.read(&mut buf)? {
            // The client has said goodbye (close_notify): so do we. A cut would be an error.
            0 => return client.finish_all(None),
            count => {
                client.write_all(&buf[..count])?;
                client.flush_all(None)?;
            }
        }
    }
}

fn ask(address: &str, text: &str) -> Result<(), Box<dyn Error>> {
    let server = connect(&address.parse()?, &ConnectOptions::new())?;
    server.write_all(text.as_bytes())?;
    server.finish_all(None)?;
    let mut answer = Vec::new();
    let mut buf = [0; 1024];
    loop {
        match server.read(&mut buf)? {
            0 => break,
            count => answer.extend(&buf[..count]),
        }
    }
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}
