//! Many idle connections on tokio, and what they cost: 10,000 of them, or as many as are asked for.
//! The near ends are bare sockets in a second process, so that they are not counted.
//!
//! ```sh
//! cargo run --release -p qio-adapters --features tokio --example idle_connections -- 10000
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::{error::Error, net::TcpStream, time::Instant};

use qio::net::{ListenOptions, listen};
use qio_adapters::tokio::{Accepted, incoming};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{spawn, spawn_blocking};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // As many open files as root has left to us.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let mut words = std::env::args().skip(1);
    let number: usize = words.next().map_or(Ok(10_000), |text| text.parse())?;
    if let Some(address) = words.next() {
        return near_ends(number, &address);
    }
    let listener = listen(&"listen:tcp://127.0.0.1:0".parse()?, &ListenOptions::new())?;
    let address = listener.local_addresses()[0].to_string().replace("tcp://", "");
    spawn(async move {
        let mut clients = incoming(&listener);
        while let Some(Ok(client)) = clients.next().await {
            spawn(echo(client));
        }
    });
    let (before, start) = (resident_bytes()?, Instant::now());
    let mut near_ends = Command::new(std::env::current_exe()?);
    near_ends.args([&number.to_string(), &address]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = near_ends.spawn()?;
    let mut lines = BufReader::new(process.stdout.take().ok_or("no pipe")?).lines();
    let (line, lines) = spawn_blocking(|| (lines.next(), lines)).await?;
    println!("{} in {:.2?}", line.ok_or("the near ends are gone")??, start.elapsed());
    let bytes = resident_bytes()?.saturating_sub(before) / number.max(1) as u64;
    println!("{bytes} bytes of resident memory each");
    drop(process.stdin.take());
    let rest: Vec<_> = spawn_blocking(|| lines.collect::<Result<_, _>>()).await??;
    println!("{}", rest.join("\n"));
    process.wait()?.success().then_some(()).ok_or("the near ends have failed".into())
}

async fn echo(mut client: Accepted) -> io::Result<()> {
    loop {
        let byte = client.channel.read_u8().await?;
        client.channel.write_u8(byte).await?;
    }
}

/// Connects, says something on each connection, and again when the input has ended.
fn near_ends(number: usize, address: &str) -> Result<(), Box<dyn Error>> {
    let talk = |end: io::Result<TcpStream>| {
        let mut end = end?;
        end.write_all(b"!").and_then(|()| end.read_exact(&mut [0])).map(|()| end)
    };
    let ends = (0..number).map(|_| talk(TcpStream::connect(address)));
    let ends = ends.collect::<io::Result<Vec<_>>>()?;
    println!("{} connections, each of which has said something,", ends.len());
    io::stdin().read_to_end(&mut Vec::new())?;
    let alive = ends.into_iter().map(Ok).map(talk).collect::<io::Result<Vec<_>>>()?;
    println!("{} of them are alive", alive.len());
    Ok(())
}

fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let (_, line) = status.split_once("VmRSS:").ok_or("no VmRSS")?;
    Ok(1024 * line.split_whitespace().next().ok_or("no number")?.parse::<u64>()?)
}
