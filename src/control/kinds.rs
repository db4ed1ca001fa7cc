//! Everything that a request may be refused for, by name: the list that `rpc.discover` publishes.
//!
//! The names are given where the errors are told apart, in the functions `kind` and `*_kind` of this
//! module's files; a test holds the list against every one of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::lease::PASSING;

/// The kinds of errors, sorted. A later version may know more.
pub const ERROR_KINDS: &[&str] = &[
    "AlreadyHeld",
    "AlreadyRemoved",
    "AmbiguousDevice",
    "AnswerIdMisplaced",
    "AnswerIdMissing",
    "BadCode",
    "BadCursor",
    "BadFrontier",
    "BadId",
    "BadLink",
    "BadName",
    "BadPlace",
    "BadScope",
    "BaseBehind",
    "BatchRequest",
    "BeforeBase",
    "BeyondLog",
    "BlindWithOps",
    "BookmarkStale",
    "Bucket",
    "BundleCutShort",
    "BundleDamaged",
    "Burnt",
    "Busy",
    "CallIdMissing",
    "CallIdTwice",
    "CallKind",
    "CallsKind",
    "CallsMisplaced",
    "Changed",
    "ChoiceMisfit",
    "Choices",
    "ClockUnsafe",
    "ConfigFile",
    "ConfigTooLong",
    "ConnectionLost",
    "ContentKind",
    "Deposed",
    "DiskFull",
    "Disputed",
    "Diverged",
    "DropboxExists",
    "DropboxFailed",
    "DuplicateKey",
    "Empty",
    "Engine",
    "EpochExhausted",
    "EpochOutOfRange",
    "Expired",
    "ExporterRemoved",
    "ExporterUnknown",
    "Fenced",
    "File",
    "FileExists",
    "FolderGone",
    "ForeignSpace",
    "ForkedLineage",
    "Frame",
    "GcHeld",
    "Generation",
    "GenerationConflict",
    "HalfARow",
    "Held",
    "HomeFile",
    "HomeInUse",
    "HomeLockFailed",
    "HomeLocked",
    "HomeReadOnly",
    "HostUnconfirmed",
    "HostUnreachable",
    "IdMissing",
    "IdentityDamaged",
    "Index",
    "InvalidParams",
    "InvalidRequest",
    "InviteNotFound",
    "InviteOpen",
    "KeptWhole",
    "KeyInvalid",
    "KeyLength",
    "KeyMissing",
    "LastAdmin",
    "LeaseNameCharacter",
    "LeaseNameLength",
    "LedgerSurface",
    "Left",
    "Locked",
    "Lost",
    "MisplacedMember",
    "MomentNotNamed",
    "Moving",
    "Net",
    "NewerFormat",
    "NoAgents",
    "NoBundle",
    "NoCheckpoint",
    "NoConflict",
    "NoSuchSpace",
    "NotADevice",
    "NotAHead",
    "NotASection",
    "NotAdmin",
    "NotAllowed",
    "NotAlone",
    "NotAnObject",
    "NotAuthor",
    "NotAuthorized",
    "NotBuiltIn",
    "NotCompared",
    "NotHolder",
    "NotHost",
    "NotInitialised",
    "NotInvited",
    "NotJson",
    "NotLost",
    "NotOfType",
    "NotReachable",
    "NotRecorded",
    "NotStarted",
    "NotToml",
    "OpMissing",
    "OpNotNamed",
    "OtherHistory",
    "OutOfRange",
    "OutOfTurn",
    "OwnDevice",
    "OwnInvite",
    "OwnPeer",
    "PageLimit",
    "PartKind",
    "PastKeyMissing",
    "PatchForm",
    "PeerAddress",
    "PersonalSpace",
    "PolicyForm",
    "PolicyLimit",
    "PolicySurface",
    "Quarantined",
    "Read",
    "ReadOnly",
    "RegistryKind",
    "RelativePath",
    "Removed",
    "RequestTooLong",
    "RequestTooOld",
    "Rewriting",
    "Role",
    "Roster",
    "ScopeTaken",
    "Settling",
    "Stale",
    "StillBehind",
    "Stopped",
    "Storage",
    "StorageFailed",
    "Store",
    "StoreEmpty",
    "StoreUnreachable",
    "StoreUnusable",
    "Superseded",
    "SurfaceMissing",
    "Taken",
    "Terms",
    "TimedOut",
    "TooDeep",
    "TooLong",
    "TooManyCalls",
    "TooManyDropboxes",
    "TooManyLeases",
    "TooManyObjects",
    "TooManyOps",
    "TooManyPeers",
    "TooManyRequests",
    "TooManySubscriptions",
    "TooManyVoters",
    "TooMuch",
    "TooSlow",
    "ToolIdLength",
    "TtlOutOfRange",
    "TurnedAway",
    "Underway",
    "UnknownDevice",
    "UnknownDropbox",
    "UnknownInvite",
    "UnknownKey",
    "UnknownLog",
    "UnknownMethod",
    "UnknownOp",
    "UnknownScheme",
    "UnknownStatus",
    "UnknownSurface",
    "Unproven",
    "Version",
    "Violation",
    "Welcome",
    "Withdrawn",
    "WrongJsonRpc",
    "WrongKind",
    "WrongTier",
];

/// Whether the same request may succeed later without anything being changed by the caller.
pub(super) fn is_temporary(kind: &str) -> bool {
    matches!(
        kind,
        "TimedOut"
            | "HomeLocked"
            | "Lost"
            | "Stopped"
            | "InviteNotFound"
            | "ConnectionLost"
            | "Busy"
            | "TooSlow"
            | "Locked"
            | "NotReachable"
            | "StillBehind"
    ) || PASSING.contains(&kind)
}

/// The kinds as the OpenRPC document lists them.
pub(super) fn described() -> BTreeMap<&'static str, Value> {
    ERROR_KINDS.iter().map(|kind| (*kind, json!({ "temporary": is_temporary(kind) }))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Adds the texts that the naming functions of a source file give.
    fn collect(source: &str, found: &mut BTreeSet<String>) {
        let mut lines = source.lines();
        while let Some(line) = lines.next() {
            let Some((head, name)) = line.split_once("fn ") else { continue };
            let name = name.split('(').next().unwrap_or_default();
            let names = (name == "kind" || name.ends_with("_kind")) && line.ends_with("-> &'static str {");
            if !names {
                continue;
            }
            let indent = head.len() - head.trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            for line in lines.by_ref().take_while(|line| *line != end) {
                found.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_name_that_an_error_is_given_is_listed_and_no_other() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = BTreeSet::new();
        let files = fs::read_dir(src.join("control")).unwrap().map(|entry| entry.unwrap().path());
        for file in files.chain([src.join("coordinator/error.rs")]) {
            if file.is_file() {
                collect(&fs::read_to_string(file).unwrap(), &mut found);
            }
        }

        let listed: BTreeSet<String> = ERROR_KINDS.iter().map(|kind| (*kind).to_owned()).collect();
        let missing: Vec<_> = found.difference(&listed).collect();
        let unknown: Vec<_> = listed.difference(&found).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "not listed: {missing:?}; not given: {unknown:?}");
        assert!(ERROR_KINDS.is_sorted(), "they are easier to find in order");
    }

    #[test]
    fn whatever_passes_by_itself_is_a_kind_there_is() {
        let temporary: BTreeSet<&str> =
            ERROR_KINDS.iter().copied().filter(|kind| is_temporary(kind)).collect();

        for kind in PASSING {
            assert!(temporary.contains(kind), "{kind}");
        }
        assert!(temporary.contains("TimedOut") && !temporary.contains("UnknownOp"));
        assert_eq!(described()["Busy"]["temporary"], true);
    }
}
