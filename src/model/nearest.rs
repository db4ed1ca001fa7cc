//! Finding the name that was meant by a mistyped one.

/// The candidate closest to a mistyped name; `None` where none is near.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_BYTES_COMPARED {
        return None;
    }
    let (distance, candidate) = candidates
        .into_iter()
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= NEAR_EDITS).then_some(candidate)
}

/// Levenshtein distance over bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A longer name is nobody's typing error.
const NAME_BYTES_COMPARED: usize = 64;

/// Further apart than this, a suggestion would be a guess.
const NEAR_EDITS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_what_was_meant_and_a_guess_is_not_made() {
        let names = ["listen", "peers", "max_mtu"];

        assert_eq!(nearest("listne", names), Some("listen"));
        assert_eq!(nearest("max-mtu", names), Some("max_mtu"));
        assert_eq!(nearest("something", names), None);
        assert_eq!(nearest(&"x".repeat(100_000), names), None);
    }
}
