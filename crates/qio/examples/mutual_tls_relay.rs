//! A relay in front of a plain service that lets in whoever has a certificate of one authority.
//!
//! ```sh
//! # A directory as QEMU has it: ca-cert.pem, server-cert.pem, server-key.pem
//! cargo run -p qio --features tls --example mutual_tls_relay -- \
//!     'listen:tls+tcp://127.0.0.1:4433?creds=/etc/pki/qio' tcp://127.0.0.1:5432
//! openssl s_client -connect 127.0.0.1:4433 -CAfile ca-cert.pem \
//!     -cert client-cert.pem -key client-key.pem
//! ```
//!
//! With `&allow=*CN=ann*` in the address, only Ann of these comes in.

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

use qio::layer::{Layer, tls::ServerTls};
use qio::net::{Accepted, Address, ConnectOptions, ListenEvent, ListenOptions, connect, listen};
use qio::relay::{Relay, RelayOptions};
use qio::watch::run;
use qio::{Channel, ChannelExt};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = &args[..] else {
        return Err("usage: mutual_tls_relay LISTEN-ADDRESS ADDRESS".into());
    };
    let options = ListenOptions::new().observe(|event| {
        if let ListenEvent::HandshakeFailed { error, .. } = event {
            println!("refused {}", error.report());
        }
    });
    let (from, to): (Address, Address) = (from.parse()?, to.parse()?);
    let listener = listen(&from, &options)?;
    println!("listening on {}", listener.local_addresses()[0]);
    loop {
        let client = listener.accept(None)?;
        let to = to.clone();
        thread::spawn(move || {
            if let Err(error) = serve(&client, &to) {
                println!("{}: {error}", client.peer);
            }
        });
    }
}

fn serve(client: &Accepted, to: &Address) -> Result<(), Box<dyn Error>> {
    println!("let in {}", subject(&*client.channel).unwrap_or_default());
    let service = connect(to, &ConnectOptions::new())?;
    let relay = Relay::new(Arc::clone(&client.channel), service, RelayOptions::default());
    let ControlFlow::Break(record) = run(relay, None)? else { return Ok(()) };
    let (sent, received) = (record.left_to_right.bytes, record.right_to_left.bytes);
    println!("{:?}: {sent} bytes there, {received} back", record.end);
    Ok(())
}

/// The distinguished name of the client.
fn subject(channel: &dyn Channel) -> Option<String> {
    let layer: &Layer<Arc<dyn Channel>, ServerTls> = channel.find()?;
    layer.with_engine(|tls| tls.facts().peer_subject().map(str::to_owned))
}
