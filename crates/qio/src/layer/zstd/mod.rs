//! Streaming compression with zstd (RFC 8878) over any channel.

mod engine;
mod error;
mod options;

use std::io::Result;

pub use engine::Zstd;
pub use error::ZstdError;
pub use options::ZstdOptions;

use super::Layer;
use crate::channel::Channel;

/// The name of the layer in front of that of the channel.
pub const NAME: &str = "zstd";

/// Compresses what is written to `below`, and expands what is read from it.
///
/// There is no handshake: both ends must have the layer. Every write is out when it returns, so
/// that questions and answers work; small buffers of one write are compressed together. Each
/// direction is one frame of zstd: [`finish`](Channel::finish) ends ours, and a stream that ends
/// inside of the peer's is truncated (`UnexpectedEof`). What follows the peer's frame is not read.
///
/// Compressing what an attacker chooses together with a secret, below encryption, tells the
/// secret's length and by and by the secret itself (CRIME): do not put such data into one stream.
///
/// # Errors
///
/// `InvalidInput` for options out of their range.
///
/// ```
/// use qio::layer::zstd::{self, ZstdOptions};
/// use qio::{Channel, ChannelExt, transport::Duplex};
///
/// # fn main() -> std::io::Result<()> {
/// let (near, far) = Duplex::pair();
/// let near = zstd::layer(near, ZstdOptions::new().level(9))?;
/// let far = zstd::layer(far, ZstdOptions::new())?;
/// near.write_all(&[b'a'; 40_000])?;
/// let mut text = vec![0; 40_000];
/// far.read_exact(&mut text)?;
/// assert_eq!(text, [b'a'; 40_000]);
/// near.finish_all(None)?;
/// assert_eq!(far.read(&mut text)?, 0);
/// # Ok(())
/// # }
/// ```
pub fn layer<C: Channel>(below: C, options: ZstdOptions) -> Result<Layer<C, Zstd>> {
    Ok(Layer::new(NAME, below, Zstd::new(options)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ChannelExt;
    use crate::interest::Interest;
    use crate::transport::Duplex;

    #[test]
    fn the_error_of_a_protocol_is_inside_of_that_of_a_read_also_when_a_wait_has_found_it() {
        for waits in [false, true] {
            let (near, far) = Duplex::pair();
            let near = layer(near, ZstdOptions::new()).unwrap();
            far.write_all(b"this is no frame of zstd").unwrap();
            if waits {
                near.wait(Interest::READ, None).unwrap();
            }
            let error = near.read(&mut [0; 10]).unwrap_err();
            let inside = error.get_ref().and_then(|inside| inside.downcast_ref());
            assert!(matches!(inside, Some(ZstdError::Invalid(_))), "{waits}: {error:?}");
            // It is told again, in words.
            assert_eq!(near.read(&mut [0; 10]).unwrap_err().to_string(), error.to_string());
        }
    }
}
