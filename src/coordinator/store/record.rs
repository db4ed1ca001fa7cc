//! One agent's lease as it lies in a store.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::lease::{DaemonInstance, Holder, Ttl};
use crate::model::{AgentId, DeviceId, LeaseEpoch};

/// A random number that makes every value written the only one of its kind.
pub type Nonce = [u8; 16];

/// Bytes that are no record of a lease.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// No record of this format.
    #[error("what lies there is no lease of format {FORMAT}")]
    Form(#[source] serde_json::Error),
    /// A later or another format.
    #[error("what lies there has format {found:?}, this version reads {FORMAT}")]
    Format {
        /// The format named.
        found: String,
    },
    /// A field that holds no value of its kind.
    #[error("the lease's {field} holds no such value")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// The record of another agent.
    #[error("what lies there is the lease of {found:?}")]
    OtherAgent {
        /// The agent named.
        found: String,
    },
}

/// One agent's lease: the greatest token ever given, and who holds it.
///
/// It is never removed, so that no token is given twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// For which agent.
    pub agent: AgentId,
    /// The greatest token given; 0 stands for none in the stored form only.
    pub epoch: LeaseEpoch,
    /// Who holds it; `None` once it was released.
    pub held: Option<Held>,
    /// What no other record holds.
    pub nonce: Nonce,
}

/// A lease that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// By whom.
    pub holder: Holder,
    /// The longest lifetime that was asked for under this token.
    pub ttl_max: Ttl,
}

impl Record {
    /// The record as it is stored: one line of JSON, so that a person may read it in a bucket.
    pub fn to_bytes(&self) -> Bytes {
        let form = Form {
            format: FORMAT.into(),
            agent: self.agent.as_str().into(),
            epoch: self.epoch.get(),
            holder: self.held.map(|held| HolderForm {
                device: held.holder.device.to_string(),
                instance: hex(&held.holder.instance.get().to_be_bytes()),
                ttl_max_ms: u64::from(held.ttl_max.as_millis()),
            }),
            nonce: hex(&self.nonce),
        };
        serde_json::to_vec(&form).expect("the form has string keys and no failing parts").into()
    }

    /// Reads the record of `agent`.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn from_bytes(agent: &AgentId, bytes: &[u8]) -> Result<Self, RecordError> {
        let form: AnyForm = serde_json::from_slice(bytes).map_err(RecordError::Form)?;
        if form.format != FORMAT {
            return Err(RecordError::Format { found: form.format.chars().take(FORMAT_SHOWN).collect() });
        }
        let form: Form = serde_json::from_slice(bytes).map_err(RecordError::Form)?;
        if form.agent != agent.as_str() {
            let found = form.agent.chars().take(FORMAT_SHOWN).collect();
            return Err(RecordError::OtherAgent { found });
        }
        Ok(Self {
            agent: agent.clone(),
            epoch: LeaseEpoch::new(form.epoch).map_err(|_| RecordError::Field { field: "epoch" })?,
            held: form.holder.map(HolderForm::read).transpose()?,
            nonce: unhex(&form.nonce).ok_or(RecordError::Field { field: "nonce" })?,
        })
    }
}

#[derive(Deserialize)]
struct AnyForm {
    format: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    format: String,
    agent: String,
    epoch: u64,
    holder: Option<HolderForm>,
    nonce: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HolderForm {
    device: String,
    instance: String,
    ttl_max_ms: u64,
}

impl HolderForm {
    fn read(self) -> Result<Held, RecordError> {
        let device: DeviceId = self.device.parse().map_err(|_| RecordError::Field { field: "device" })?;
        let instance = unhex(&self.instance).ok_or(RecordError::Field { field: "instance" })?;
        let instance = DaemonInstance::new(u64::from_be_bytes(instance));
        let ttl_max =
            Ttl::from_millis(self.ttl_max_ms).map_err(|_| RecordError::Field { field: "ttl_max_ms" })?;
        Ok(Held { holder: Holder { device, instance }, ttl_max })
    }
}

/// The name of an agent's cell: what can be read of it, and a hash that tells it from every other.
pub(super) fn cell_name(agent: &AgentId) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '_';
    let readable: String = agent.as_str().chars().filter(is_plain).take(NAME_SHOWN).collect();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold lease cell v1");
    hasher.update(agent.as_str().as_bytes());
    format!("{readable}.{}.lease", hex(&hasher.finalize().as_bytes()[..16]))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..2 * N).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// What every record names first.
const FORMAT: &str = "kinfold-lease-1";

/// Characters of foreign text that a message repeats.
const FORMAT_SHOWN: usize = 40;

/// Characters of an agent's name that its cell's name shows.
const NAME_SHOWN: usize = 40;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        let holder = Holder {
            device: DeviceId::from_bytes([3; 32]),
            instance: DaemonInstance::new(0xabab_abab_abab_abab),
        };
        Record {
            agent: "backup".parse().unwrap(),
            epoch: LeaseEpoch::new(7).unwrap(),
            held: Some(Held { holder, ttl_max: Ttl::DEFAULT }),
            nonce: [0x5c; 16],
        }
    }

    fn check(text: &str, expect: impl Fn(&RecordError) -> bool) {
        let error = Record::from_bytes(&"backup".parse().unwrap(), text.as_bytes()).unwrap_err();
        assert!(expect(&error), "{text}: {error:?}");
    }

    #[test]
    fn a_record_is_one_line_of_json_that_never_changes() {
        let golden = include_str!("../../../tests/data/lease-record-v1.json").trim_end();

        assert_eq!(std::str::from_utf8(&record().to_bytes()).unwrap(), golden);
        assert_eq!(Record::from_bytes(&"backup".parse().unwrap(), golden.as_bytes()).unwrap(), record());
    }

    #[test]
    fn what_is_no_record_is_refused_by_name() {
        let good = String::from_utf8(record().to_bytes().to_vec()).unwrap();

        check("", |error| matches!(error, RecordError::Form(_)));
        check(&good.replace("\"nonce\"", "\"nonsense\""), |error| matches!(error, RecordError::Form(_)));
        check(
            &good.replace("lease-1", "lease-2"),
            |error| matches!(error, RecordError::Format { found } if found == "kinfold-lease-2"),
        );
        check(
            &good.replace("backup", "other"),
            |error| matches!(error, RecordError::OtherAgent { found } if found == "other"),
        );
        check(&good.replace("\"epoch\":7", "\"epoch\":0"), |error| {
            matches!(error, RecordError::Field { field: "epoch" })
        });
        check(&good.replace("30000", "999"), |error| {
            matches!(error, RecordError::Field { field: "ttl_max_ms" })
        });
        check(&good.replace("5c5c", "5C5C"), |error| matches!(error, RecordError::Field { field: "nonce" }));
        check(&good.replace("abab", "ab"), |error| matches!(error, RecordError::Field { field: "instance" }));
    }

    #[test]
    fn agents_that_look_alike_have_cells_of_their_own() {
        let name = |text: &str| cell_name(&text.parse().unwrap());

        assert!(name("nightly backup/../é").starts_with("nightlybackup."));
        assert_ne!(name("a b"), name("ab"));
        assert!(name(&"x".repeat(128)).len() < 100);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Record::from_bytes(&"backup".parse().unwrap(), &bytes);
        }

        #[test]
        fn a_record_reads_back(epoch in 1..=LeaseEpoch::MAX.get(), is_held: bool, nonce: [u8; 16]) {
            let mut written = record();
            written.epoch = LeaseEpoch::new(epoch).unwrap();
            written.held = written.held.filter(|_| is_held);
            written.nonce = nonce;

            prop_assert_eq!(Record::from_bytes(&written.agent, &written.to_bytes()).unwrap(), written);
        }
    }
}
