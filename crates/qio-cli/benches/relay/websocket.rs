//! The client's side of WebSocket, as much of it as a load needs.

use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::TcpStream;

/// A WebSocket over a TCP connection: each write is one binary frame.
#[derive(Debug)]
pub(crate) struct WebSocket {
    stream: BufReader<TcpStream>,
    /// What is left of the payload of the frame that is being read.
    left: u64,
    frame: Vec<u8>,
}

const KEY: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

impl WebSocket {
    /// Asks for an upgrade.
    pub(crate) fn over(mut stream: TcpStream) -> Result<Self> {
        stream.write_all(REQUEST.as_bytes())?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if line.split_whitespace().nth(1) != Some("101") {
            return Err(Error::other(format!("no upgrade: {}", line.trim_end())));
        }
        while line.trim_end() != "" {
            line.clear();
            stream.read_line(&mut line)?;
        }
        Ok(Self { stream, left: 0, frame: Vec::new() })
    }

    /// Sends a Close frame.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.send(CLOSE, &[])
    }

    fn send(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        self.frame.clear();
        self.frame.push(FINAL | kind);
        match payload.len() {
            len @ 0..126 => self.frame.push(MASKED | len as u8),
            len @ 126..65536 => {
                self.frame.push(MASKED | 126);
                self.frame.extend((len as u16).to_be_bytes());
            }
            len => {
                self.frame.push(MASKED | 127);
                self.frame.extend((len as u64).to_be_bytes());
            }
        }
        self.frame.extend(KEY);
        self.frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
        self.stream.get_mut().write_all(&self.frame)
    }
}

impl Read for WebSocket {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        while self.left == 0 {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head)?;
            self.left = match head[1] {
                126 => {
                    let mut len = [0; 2];
                    self.stream.read_exact(&mut len)?;
                    u16::from_be_bytes(len).into()
                }
                127 => {
                    let mut len = [0; 8];
                    self.stream.read_exact(&mut len)?;
                    u64::from_be_bytes(len)
                }
                len => len.into(),
            };
            match head[0] & 0x0f {
                0..=2 => {}
                CLOSE => return Ok(0),
                _ => {
                    let mut control = vec![0; self.left as usize];
                    self.stream.read_exact(&mut control)?;
                    self.left = 0;
                }
            }
        }
        let most = buf.len().min(self.left as usize);
        let count = self.stream.read(&mut buf[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Write for WebSocket {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.send(BINARY, buf)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
