//! The table of layers: what can stand in front of a transport, joined with `+`.

use super::scheme::OptionInfo;

/// A layer as addresses name it.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) name: &'static str,
    pub(crate) options: &'static [OptionInfo],
}

/// Every layer. A new one is a line here.
pub(crate) const LAYERS: &[Layer] = &[];
