//! Holding back partial packets for a while.

use super::Channel;

/// Keeps a channel [corked](Channel::set_cork) until it is dropped, however that comes about.
///
/// Guards nest: the last one uncorks. From [`ChannelExt::corked`](super::ChannelExt::corked).
#[derive(Debug)]
#[must_use = "the channel is uncorked as soon as this is dropped"]
pub struct Corked<'a> {
    channel: &'a dyn Channel,
}

impl<'a> Corked<'a> {
    pub(super) fn new(channel: &'a dyn Channel) -> Self {
        channel.base().change_corks(|corks| {
            *corks += 1;
            if *corks == 1 {
                channel.set_cork(true);
            }
        });
        Self { channel }
    }
}

impl Drop for Corked<'_> {
    fn drop(&mut self) {
        self.channel.base().change_corks(|corks| {
            *corks -= 1;
            if *corks == 0 {
                self.channel.set_cork(false);
            }
        });
    }
}
