//! A cursor over bytes of a peer or a disk: takes what is there, allocates nothing, never panics.

use super::form::FormError;

/// Reads big-endian fields from the front.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// All that is left.
    pub const fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub fn slice(&mut self, len: usize) -> Result<&'a [u8], FormError> {
        let (front, rest) = self.rest.split_at_checked(len).ok_or(FormError::TooShort)?;
        self.rest = rest;
        Ok(front)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormError> {
        let (front, rest) = self.rest.split_first_chunk::<N>().ok_or(FormError::TooShort)?;
        self.rest = rest;
        Ok(*front)
    }

    pub fn u8(&mut self) -> Result<u8, FormError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, FormError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, FormError> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, FormError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A count that cannot be more than `limit`.
    pub fn count(&mut self, limit: usize) -> Result<usize, FormError> {
        let found = usize::from(self.u16()?);
        if found <= limit { Ok(found) } else { Err(FormError::TooMany { found, limit }) }
    }

    pub fn end(self) -> Result<(), FormError> {
        if self.rest.is_empty() { Ok(()) } else { Err(FormError::Trailing { extra: self.rest.len() }) }
    }
}

/// BLAKE3 of parts under a domain tag.
pub(super) fn tagged(tag: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(tag);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
