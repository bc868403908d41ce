//! A chat of browsers: each line that one of them sends goes to all.
//!
//! ```sh
//! cargo run -p qio --example chat
//! ```
//!
//! Then open `crates/qio/examples/chat.html` in two windows. A page from a file has the origin
//! "null", which a listener lets in only when told so; another address can be given:
//! `cargo run -p qio --example chat -- 'listen:ws://127.0.0.1:8080?text&origin=https://…'`.

use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use qio::net::{ListenOptions, listen};
use qio::{Channel, ChannelExt, Io};

const ADDRESS: &str = "listen:ws://127.0.0.1:8080?text&origin=null";

/// The longest line, in bytes, and how many lines may wait for a client that is slow.
const LINE: u64 = 4096;
const QUEUE: usize = 100;

type Clients = Arc<Mutex<Vec<SyncSender<Arc<str>>>>>;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| ADDRESS.to_owned());
    let options = ListenOptions::new().max_connections(1000);
    let listener = listen(&address.parse()?, &options)?;
    println!("listening on {}", listener.local_addresses()[0]);
    let clients = Clients::default();
    loop {
        let channel = listener.accept(None)?.channel;
        let (sender, lines) = sync_channel(QUEUE);
        clients.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        // A channel has a reader and a writer at the same time, here a thread for each.
        let (writer, clients) = (Arc::clone(&channel), Arc::clone(&clients));
        thread::spawn(move || write(&*writer, &lines));
        thread::spawn(move || read(&channel, &clients));
    }
}

/// Tells everybody what the client says, until it leaves.
fn read(channel: &Arc<dyn Channel>, clients: &Clients) {
    let mut input = BufReader::new(Io(channel));
    let mut line = String::new();
    while matches!(input.by_ref().take(LINE).read_line(&mut line), Ok(1..)) {
        let text: Arc<str> = format!("{}\n", line.trim_end()).into();
        // Who is gone, or too slow, is dropped from the list, which ends its writer.
        let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| client.try_send(Arc::clone(&text)).is_ok());
        line.clear();
    }
    // Who was cut off cannot be said goodbye to. The place is free for others from here on.
    let _ = channel.finish_all(Some(Instant::now() + Duration::from_secs(5)));
    let _ = channel.close();
}

/// Writes what is said to the client: a line is a message.
fn write(channel: &dyn Channel, lines: &Receiver<Arc<str>>) {
    for line in lines {
        let sent = channel.write_all(line.as_bytes()).and_then(|()| channel.flush_all(None));
        if sent.is_err() {
            break;
        }
    }
    // It wakes the reader too.
    let _ = channel.close();
}
