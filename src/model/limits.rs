//! Every named maximum of the formats and the protocol, and how each was chosen.

use std::time::Duration;

/// Greatest payload of one op: larger content belongs into blobs.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Deepest nesting of a payload: no honest document comes near, and parsers stay off the stack's end.
pub const PAYLOAD_DEPTH_MAX: usize = 64;

/// Greatest row key or stream name in bytes; a path of the common systems fits.
pub const KEY_BYTES_MAX: usize = 1024;

/// Greatest name of an agent or a run in bytes: a unit's or a job's name and an id fit.
pub const LEASE_NAME_BYTES_MAX: usize = 128;

/// Most tool calls in one turn: as many tools as the great models are given at once.
pub const TURN_CALLS_MAX: usize = 128;

/// Greatest new id of a tool call in bytes; those of the great models have 30 to 64.
pub const TOOL_ID_BYTES_MAX: usize = 256;

/// Most turns that a sequence to go on from is made of: more than any model takes in at once.
pub const RESUME_TURNS_MAX: usize = 10_000;

/// Most payload bytes that a sequence to go on from is made of.
pub const RESUME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Greatest surface name in bytes.
pub const SURFACE_BYTES_MAX: usize = 64;

/// Most predecessors one op may name: more heads than that are merged in two writes.
pub const PREDS_MAX: usize = 1024;

/// Most heads that one settling write names, so that the row that tells of them is a payload.
pub const RESOLVED_HEADS_MAX: usize = 400;

/// Greatest chosen value in bytes that the trail of settled conflicts repeats.
pub const RESOLVED_VALUE_BYTES_MAX: usize = 4096;

/// Most ops in one batch: small enough to open for one read, large enough to make headers cheap.
pub const BATCH_OPS_MAX: usize = 128;

/// Greatest body of a batch with more than one op; a single larger op travels alone.
pub const BATCH_BODY_BYTES_MAX: usize = 64 * 1024;

/// Greatest sealed batch: header, ciphertext, tag and signature.
pub const BATCH_SEALED_BYTES_MAX: usize = 256 * 1024;

/// Greatest decompressed body; a decoder stops there, whatever the frame claims.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Drafts are sealed at this many ops even when nobody is there to receive them.
pub const DRAFT_OPS_MAX: usize = 64;

/// Greatest control frame.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// Greatest roster record: names and cuts, never content.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// Most records in one roster: ten per device of a large organisation.
pub const RECORDS_MAX: usize = 10_000;

/// Most heads one record may name: devices that write records at once, never a large number.
pub const RECORD_PARENTS_MAX: usize = 64;

/// Most records that wait for a parent: peers send parents first, so only crossing deliveries do.
pub const RECORDS_PARKED_MAX: usize = 256;

/// Most logs one removal may cut: the incarnations of one device, which restores of backups make.
pub const CUT_LOGS_MAX: usize = 512;

/// Most confirmations one rotation carries, so that its record keeps within its limit.
pub const CONFIRMATIONS_MAX: usize = 512;

/// Most devices in one roster.
pub const DEVICES_MAX: usize = 1_000;

/// Most logs in one space: devices times the incarnations a life of restores makes.
pub const LOGS_MAX: usize = 10_000;

/// Most spaces on one device.
pub const SPACES_MAX: usize = 64;

/// Greatest device name in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Greatest number of connected peers.
pub const PEERS_MAX: usize = 128;

/// How far a remote stamp may pull the local clock ahead of the wall.
pub const HLC_AHEAD_MAX: Duration = Duration::from_secs(60);

/// How long a forwarder waits before it passes on what its neighbours may already have.
pub const FORWARD_DELAY: Duration = Duration::from_millis(30);
