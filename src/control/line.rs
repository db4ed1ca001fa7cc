//! Cutting a byte stream into lines without ever holding more than a named maximum.

/// One line, without its line feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// A line within the limit; a carriage return before the line feed is dropped.
    Whole(Vec<u8>),
    /// A longer line, read past and not kept.
    TooLong {
        /// How long it was.
        bytes: u64,
    },
}

/// Cuts chunks of any size into lines.
#[derive(Debug)]
pub struct LineCutter {
    limit: usize,
    kept: Vec<u8>,
    length: u64,
}

impl LineCutter {
    /// Cuts lines of at most `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self { limit, kept: Vec::new(), length: 0 }
    }

    /// Takes bytes up to and including the next line feed.
    ///
    /// Returns how many bytes of `chunk` it used and the line they ended; call again with the rest.
    pub fn cut(&mut self, chunk: &[u8]) -> (usize, Option<Line>) {
        match chunk.iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                self.keep(&chunk[..at]);
                (at + 1, Some(self.take()))
            }
            None => {
                self.keep(chunk);
                (chunk.len(), None)
            }
        }
    }

    /// The last line, where the stream ended without a line feed.
    pub fn finish(&mut self) -> Option<Line> {
        (self.length > 0).then(|| self.take())
    }

    fn keep(&mut self, part: &[u8]) {
        self.length = self.length.saturating_add(part.len() as u64);
        if self.length <= self.limit as u64 {
            self.kept.extend_from_slice(part);
        } else {
            self.kept = Vec::new();
        }
    }

    fn take(&mut self) -> Line {
        let (mut kept, bytes) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.length));
        if bytes > self.limit as u64 {
            return Line::TooLong { bytes };
        }
        if kept.last() == Some(&b'\r') {
            kept.pop();
        }
        Line::Whole(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(limit: usize, chunks: &[&str]) -> Vec<Line> {
        let mut cutter = LineCutter::new(limit);
        let mut found = Vec::new();
        for chunk in chunks {
            let mut rest = chunk.as_bytes();
            while !rest.is_empty() {
                let (used, line) = cutter.cut(rest);
                rest = &rest[used..];
                found.extend(line);
            }
        }
        found.extend(cutter.finish());
        found
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let expected = vec![whole("ab"), whole(""), whole("c"), whole("d")];

        assert_eq!(lines(8, &["ab\n\nc\r\nd"]), expected);
        assert_eq!(lines(8, &["a", "b", "\n", "\n", "c\r", "\nd"]), expected);
        assert_eq!(lines(8, &["ab\n", "\nc\r\n", "d\n"]), expected);
    }

    #[test]
    fn a_longer_line_is_counted_and_dropped_and_the_next_one_is_whole() {
        let found = lines(4, &["1234\n123", "45\n", "ok\n", "123456789"]);

        assert_eq!(
            found,
            [whole("1234"), Line::TooLong { bytes: 5 }, whole("ok"), Line::TooLong { bytes: 9 }]
        );
    }
}
