//! Watches the sizes of gRPC messages as their bytes pass, without keeping any of them.

/// Length of the prefix of a gRPC message: a flag and four bytes of length.
const PREFIX_BYTES: usize = 5;

/// Follows the message boundaries of one direction of a call.
#[derive(Debug)]
pub(crate) struct MessageMeter {
    bytes_max: u64,
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    body_bytes_left: u64,
}

/// A message that is bigger than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooBig {
    /// Its size, as its prefix says.
    pub(crate) bytes: u64,
    /// The bound.
    pub(crate) bytes_max: u64,
}

impl MessageMeter {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            prefix: [0; PREFIX_BYTES],
            prefix_bytes: 0,
            body_bytes_left: 0,
        }
    }

    /// Takes note of the next bytes. A message is refused as soon as its prefix is there.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), TooBig> {
        while !bytes.is_empty() {
            if self.body_bytes_left > 0 {
                let here = bytes.len() as u64;
                if here <= self.body_bytes_left {
                    self.body_bytes_left -= here;
                    return Ok(());
                }
                // It fits: it is less than the length of a slice.
                bytes = &bytes[self.body_bytes_left as usize..];
                self.body_bytes_left = 0;
            }
            let take = bytes.len().min(PREFIX_BYTES - self.prefix_bytes);
            let (head, rest) = bytes.split_at(take);
            self.prefix[self.prefix_bytes..self.prefix_bytes + take].copy_from_slice(head);
            self.prefix_bytes += take;
            bytes = rest;
            if self.prefix_bytes == PREFIX_BYTES {
                let [_, a, b, c, d] = self.prefix;
                let length = u64::from(u32::from_be_bytes([a, b, c, d]));
                if length > self.bytes_max {
                    return Err(TooBig {
                        bytes: length,
                        bytes_max: self.bytes_max,
                    });
                }
                self.prefix_bytes = 0;
                self.body_bytes_left = length;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&(bytes as u32).to_be_bytes());
        message.extend(std::iter::repeat_n(7, bytes));
        message
    }

    #[test]
    fn boundaries_are_found_however_the_bytes_are_cut() {
        let wire = [message(0), message(10), message(3), message(10)].concat();
        for piece in 1..=wire.len() {
            let mut meter = MessageMeter::new(10);
            for bytes in wire.chunks(piece) {
                assert_eq!(meter.pass(bytes), Ok(()), "pieces of {piece}");
            }
        }
    }

    #[test]
    fn one_byte_over_is_refused_at_its_prefix() {
        let mut meter = MessageMeter::new(10);
        meter.pass(&message(10)).unwrap();
        let refused = meter.pass(&message(11)[..PREFIX_BYTES]);
        assert_eq!(
            refused,
            Err(TooBig {
                bytes: 11,
                bytes_max: 10
            })
        );
    }
}
