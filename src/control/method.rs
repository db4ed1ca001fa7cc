//! The methods this version answers, by name.

use crate::model::nearest::nearest;

/// A method of the control API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// `sync.status` {scope?} → [`StatusForm`](super::forms::StatusForm).
    Status,
    /// `sync.append` {scope?, surface, payload, key?, stream?} → [`AppendedForm`](super::forms::AppendedForm).
    Append,
    /// `sync.append_many` {ops, keep_good?} → [`AppendManyForm`](super::forms::AppendManyForm).
    AppendMany,
    /// `sync.delete` {scope?, surface, id} → [`AppendedForm`](super::forms::AppendedForm).
    Delete,
    /// `sync.pump` {} → [`RoundForm`](super::forms::RoundForm).
    Pump,
    /// `sync.get` {scope?, surface, id} → [`RowForm`](super::forms::RowForm) or null.
    Get,
    /// `sync.list` {scope?, surface, stream?, after?, limit?} → [`ListForm`](super::forms::ListForm).
    List,
    /// `sync.surfaces` {scope?} → [`SurfacesForm`](super::forms::SurfacesForm).
    Surfaces,
    /// `sync.subscribe` {scope?, surface?} → {subscription}; then notices `sync.changed`, `sync.lagged`.
    Subscribe,
    /// `sync.unsubscribe` {subscription} → {cancelled}.
    Unsubscribe,
    /// `sync.wait` {scope?, op_id?, on, timeout_ms?} → [`WaitForm`](super::forms::WaitForm).
    Wait,
    /// `sync.safe_to_sleep` {scope?} → [`SafeToSleepForm`](super::forms::SafeToSleepForm).
    SafeToSleep,
    /// `sync.record_turn` {scope?, conversation_id, role, content, tool_calls?, tool_use_id?, timestamp?} →
    /// [`AppendedForm`](super::forms::AppendedForm).
    RecordTurn,
    /// `sync.transcript` {scope?, conversation_id, after?, limit?} →
    /// [`TranscriptForm`](super::conversation::TranscriptForm).
    Transcript,
    /// `sync.resume` {scope?, conversation_id, last?} → [`ResumeForm`](super::conversation::ResumeForm).
    Resume,
    /// `sync.conversations` {scope?, after?, limit?} →
    /// [`ConversationsForm`](super::conversation::ConversationsForm).
    Conversations,
    /// `conflicts.list` {scope?, after?, limit?} → [`ConflictsForm`](super::forms::ConflictsForm).
    Conflicts,
    /// `peers.list` {scope?} → {peers}.
    Peers,
    /// `peers.add` {address} → {added}.
    AddPeer,
    /// `space.list` {} → [`SpacesForm`](super::roster::SpacesForm).
    Spaces,
    /// `space.create` {name, device_name?} → [`SpaceForm`](super::roster::SpaceForm).
    CreateSpace,
    /// `space.leave` {scope} → [`LeftForm`](super::roster::LeftForm).
    LeaveSpace,
    /// `roster.list` {scope?} → [`RosterForm`](super::roster::RosterForm).
    Roster,
    /// `roster.revoke` {scope?, device} → [`RevokedForm`](super::roster::RevokedForm).
    Revoke,
    /// `roster.retire` {scope?, device} → [`RevokedForm`](super::roster::RevokedForm).
    Retire,
    /// `roster.rename` {scope?, device, name} → [`RenamedForm`](super::roster::RenamedForm).
    Rename,
    /// `roster.rotate` {scope?} → [`RotatedForm`](super::roster::RotatedForm).
    Rotate,
    /// `pair.invite` {scope?, role?, ttl_ms?} → [`InviteForm`](super::pairing::InviteForm); then notices `pair.event`.
    Invite,
    /// `pair.join` {code_or_uri, name?, peer?} → [`JoinedForm`](super::pairing::JoinedForm), after notices `pair.progress`.
    Join,
    /// `pair.cancel` {} → {cancelled}, once the invite's port is closed.
    CancelInvite,
    /// `config.get` {key?, envelope?} → [`ConfigForm`](super::config::ConfigForm).
    GetConfig,
    /// `config.set` {key, value, expected_generation?} → [`ConfigChangedForm`](super::config::ConfigChangedForm).
    SetConfig,
    /// `config.patch` {patch, expected_generation?} → [`ConfigChangedForm`](super::config::ConfigChangedForm).
    PatchConfig,
    /// `health.get` {scope?} → [`HealthForm`](super::forms::HealthForm).
    Health,
    /// `node.version` {} → [`VersionForm`](super::forms::VersionForm).
    Version,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 35] = [
        Self::Status,
        Self::Append,
        Self::AppendMany,
        Self::Delete,
        Self::Pump,
        Self::Get,
        Self::List,
        Self::Surfaces,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Wait,
        Self::SafeToSleep,
        Self::RecordTurn,
        Self::Transcript,
        Self::Resume,
        Self::Conversations,
        Self::Conflicts,
        Self::Peers,
        Self::AddPeer,
        Self::Spaces,
        Self::CreateSpace,
        Self::LeaveSpace,
        Self::Roster,
        Self::Revoke,
        Self::Retire,
        Self::Rename,
        Self::Rotate,
        Self::Invite,
        Self::Join,
        Self::CancelInvite,
        Self::GetConfig,
        Self::SetConfig,
        Self::PatchConfig,
        Self::Health,
        Self::Version,
    ];

    /// The name in a request.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "sync.status",
            Self::Append => "sync.append",
            Self::AppendMany => "sync.append_many",
            Self::Delete => "sync.delete",
            Self::Pump => "sync.pump",
            Self::Get => "sync.get",
            Self::List => "sync.list",
            Self::Surfaces => "sync.surfaces",
            Self::Subscribe => "sync.subscribe",
            Self::Unsubscribe => "sync.unsubscribe",
            Self::Wait => "sync.wait",
            Self::SafeToSleep => "sync.safe_to_sleep",
            Self::RecordTurn => "sync.record_turn",
            Self::Transcript => "sync.transcript",
            Self::Resume => "sync.resume",
            Self::Conversations => "sync.conversations",
            Self::Conflicts => "conflicts.list",
            Self::Peers => "peers.list",
            Self::AddPeer => "peers.add",
            Self::Spaces => "space.list",
            Self::CreateSpace => "space.create",
            Self::LeaveSpace => "space.leave",
            Self::Roster => "roster.list",
            Self::Revoke => "roster.revoke",
            Self::Retire => "roster.retire",
            Self::Rename => "roster.rename",
            Self::Rotate => "roster.rotate",
            Self::Invite => "pair.invite",
            Self::Join => "pair.join",
            Self::CancelInvite => "pair.cancel",
            Self::GetConfig => "config.get",
            Self::SetConfig => "config.set",
            Self::PatchConfig => "config.patch",
            Self::Health => "health.get",
            Self::Version => "node.version",
        }
    }

    /// The method with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// The method whose name is closest to a mistyped one; `None` where none is near.
    pub fn nearest(name: &str) -> Option<Self> {
        nearest(name, Self::ALL.into_iter().map(Self::name)).and_then(Self::from_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_name() {
        for method in Method::ALL {
            assert_eq!(Method::from_name(method.name()), Some(method));
        }
        assert_eq!(Method::from_name("sync.nothing"), None);
    }

    #[test]
    fn a_typing_error_finds_the_method_that_was_meant() {
        assert_eq!(Method::nearest("sync.statsu"), Some(Method::Status));
        assert_eq!(Method::nearest("sync.apend"), Some(Method::Append));
        assert_eq!(Method::nearest("lease.acquire"), None);
        assert_eq!(Method::nearest(&"x".repeat(100_000)), None);
    }
}
