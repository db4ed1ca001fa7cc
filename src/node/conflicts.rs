//! Settling conflicts, and the trail that it leaves.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::error::NodeError;
use super::read::{Reader, value_in};
use super::space::Space;
use super::types::{Appended, NewOp, Row, RowValue};
use crate::fold::{Head, OpName, resolution_key, resolutions};
use crate::model::limits::{RESOLVED_HEADS_MAX, RESOLVED_VALUE_BYTES_MAX};
use crate::model::{Dot, Hlc, OpId, OpKind, Payload, Surface, Tier, intent_key};
use crate::store::OpAt;
use crate::wire::OpView;

/// What a conflict is settled with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// What this op wrote; a removal, if it was one.
    Take(OpId),
    /// A new value.
    Value(Payload),
    /// The row is removed.
    Delete,
    /// What shows goes on showing; the others have been looked at.
    Acknowledge,
}

/// What was recorded to settle a conflict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolution {
    /// The values it is about: those that stood against each other, or the losers looked at.
    pub values: Vec<RowValue>,
    /// What was recorded, in order: the writes with the decisions about them.
    pub recorded: Vec<Appended>,
}

/// What was decided, as a row of the trail says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The key of that row.
    pub key: String,
    /// The op that recorded it; its device decided.
    pub dot: Dot,
    /// When.
    pub hlc: Hlc,
    /// The surface of the conflict.
    pub surface: Surface,
    /// Its row or entity.
    pub id: String,
    /// `taken`, `value`, `deleted` or `acknowledged`.
    pub choice: String,
    /// The op whose value was taken.
    pub taken: Option<OpName>,
    /// What was chosen, where it is short.
    pub value: Option<Payload>,
    /// The ops that were decided about.
    pub ops: Vec<OpName>,
}

/// An op read by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredOp {
    /// Its public name.
    pub id: OpId,
    /// Its first place.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its kind; `None` for one of a later version.
    pub kind: Option<OpKind>,
    /// Its surface and its row, entity or stream, where this version reads them.
    pub touches: Option<(String, String)>,
    /// Its payload, if it has one.
    pub payload: Option<Payload>,
}

impl Space {
    /// Settles a conflict with what the caller has chosen, among the values of the ops in `seen`, or
    /// among all there are now. A value that came meanwhile is not overruled unseen: it goes on
    /// standing against the choice.
    ///
    /// A row of the registry tier gets a write that names those values as its predecessors; more than
    /// [`RESOLVED_HEADS_MAX`] take several. What else there is cannot be written over, so its losers
    /// are acknowledged. Either way rows of `registry:resolution` say what was decided, durable with
    /// the write.
    ///
    /// # Errors
    /// [`NodeError::NoConflict`], [`NodeError::ChoiceMisfit`], [`NodeError::NotAHead`], and as
    /// [`Space::append`] and [`Space::get`].
    pub async fn resolve(
        &self,
        surface: &Surface,
        key: &str,
        choice: Choice,
        seen: Option<&[OpId]>,
    ) -> Result<Resolution, NodeError> {
        let is_registry = surface.tier() == Tier::Registry;
        if is_registry == (choice == Choice::Acknowledge) {
            return Err(NodeError::ChoiceMisfit { surface: surface.clone() });
        }
        let (reader, name, wanted) = (self.reader(), surface.clone(), key.to_owned());
        let read = move || reader.open_conflict(&name, &wanted);
        let read = tokio::task::spawn_blocking(read).await;
        let row = read.expect("a read does not panic and is not aborted")?;
        let no_conflict = || NodeError::NoConflict { surface: surface.clone(), key: key.to_owned() };
        let row = row.ok_or_else(no_conflict)?;
        let shown = is_registry.then(|| row.shown.clone());
        let values: Vec<RowValue> = shown
            .into_iter()
            .chain(row.others.iter().cloned())
            .filter(|value| seen.is_none_or(|seen| seen.contains(&value.id)))
            .collect();
        if values.is_empty() {
            return Err(no_conflict());
        }
        let recorded = match is_registry {
            true => self.overwrite(&row, &values, choice).await?,
            false => self.acknowledge(&row, &values).await?,
        };
        Ok(Resolution { values, recorded })
    }

    async fn overwrite(
        &self,
        row: &Row,
        values: &[RowValue],
        choice: Choice,
    ) -> Result<Vec<Appended>, NodeError> {
        let (word, taken, value) = match choice {
            Choice::Take(id) => {
                let mut all = std::iter::once(&row.shown).chain(&row.others);
                let taken = all.find(|value| value.id == id).ok_or(NodeError::NotAHead { id })?;
                ("taken", Some(name_of(taken)), taken.payload.clone())
            }
            Choice::Value(value) => ("value", None, Some(value)),
            Choice::Delete | Choice::Acknowledge => ("deleted", None, None),
        };
        let mut recorded: Vec<Appended> = Vec::new();
        let mut before = None;
        for chunk in values.chunks(RESOLVED_HEADS_MAX) {
            // The write before is a head itself by now, and this one takes its place.
            let heads: BTreeSet<Dot> = chunk.iter().map(|value| value.dot).chain(before).collect();
            let names: Vec<OpName> = chunk.iter().map(name_of).collect();
            let decision = self.decision(row, &names, word, taken.as_ref(), value.as_ref())?;
            let write = NewOp::Resolve {
                surface: row.surface.clone(),
                key: row.key.clone(),
                heads: heads.into_iter().collect(),
                payload: value.clone(),
            };
            let placed = self.append(vec![write, decision]).await?;
            before = placed.first().map(|placed| placed.dot);
            recorded.extend(placed);
        }
        Ok(recorded)
    }

    async fn acknowledge(&self, row: &Row, losers: &[RowValue]) -> Result<Vec<Appended>, NodeError> {
        let mut recorded = Vec::new();
        for chunk in losers.chunks(RESOLVED_HEADS_MAX) {
            let decision = |loser| self.decision(row, &[name_of(loser)], "acknowledged", None, None);
            let decisions = chunk.iter().map(decision).collect::<Result<_, _>>()?;
            recorded.extend(self.append(decisions).await?);
        }
        Ok(recorded)
    }

    /// The row of the trail that says what was decided about these ops.
    fn decision(
        &self,
        row: &Row,
        ops: &[OpName],
        choice: &str,
        taken: Option<&OpName>,
        value: Option<&Payload>,
    ) -> Result<NewOp, NodeError> {
        let text = |text: &str| serde_json::to_string(text).expect("a text is JSON");
        let names: Vec<String> = ops.iter().map(|op| text(&op.to_string())).collect();
        let mut json = format!(
            r#"{{"surface":{},"id":{},"choice":"{choice}","ops":[{}]"#,
            text(&row.surface.to_string()),
            text(&row.key),
            names.join(",")
        );
        if let Some(taken) = taken {
            json.push_str(&format!(r#","taken":"{taken}""#));
        }
        if let Some(value) = value.filter(|value| value.as_str().len() <= RESOLVED_VALUE_BYTES_MAX) {
            json.push_str(&format!(r#","value":{value}"#));
        }
        json.push('}');
        let first = ops.first().expect("a decision is about something");
        let key = resolution_key(&row.surface, &row.key, first, &self.node.device());
        Ok(NewOp::Put { surface: resolutions(), key, payload: Payload::parse(&json)? })
    }

    /// A row, entity or run whose conflict is open, with the values that nobody has dealt with.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn conflict(&self, surface: &Surface, key: &str) -> Result<Option<Row>, NodeError> {
        self.reader().open_conflict(surface, key)
    }

    /// What was decided, about one row or about all, newest first, at most `limit` after a place.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn decisions(
        &self,
        of: Option<(&Surface, &str)>,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<Decision>, NodeError> {
        self.reader().decisions(of, after, limit)
    }

    /// The op with this name, also one that lost; `None` where it is not held.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn op_named(
        &self,
        surface: &Surface,
        key: &str,
        name: &OpName,
    ) -> Result<Option<StoredOp>, NodeError> {
        let reader = self.reader();
        let place = reader.look(|state| state.place_of(surface, key, name))?;
        Ok(reader.op(&place)?.filter(|op| (op.dot, op.hlc) == (name.dot, name.hlc)))
    }

    /// The op that stands at a place; `None` where the log does not reach it.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn op_at(&self, place: &Dot) -> Result<Option<StoredOp>, NodeError> {
        self.reader().op(place)
    }

    /// The op with this id, searched for from the newest back, the own logs first.
    ///
    /// # Errors
    /// [`NodeError::UnknownOp`], and as [`Space::get`].
    pub async fn op(&self, id: OpId) -> Result<StoredOp, NodeError> {
        let found = self.node.find(id).await?.filter(|(space, _)| *space == self.id());
        let (_, place) = found.ok_or(NodeError::UnknownOp)?;
        self.op_at(&place)?.ok_or(NodeError::UnknownOp)
    }
}

impl Reader {
    /// A row whose conflict is open, without the losers that were looked at.
    fn open_conflict(&self, surface: &Surface, key: &str) -> Result<Option<Row>, NodeError> {
        self.steadily(|| self.open_conflict_now(surface, key))
    }

    fn open_conflict_now(&self, surface: &Surface, key: &str) -> Result<Option<Row>, NodeError> {
        let chain = self.chain();
        let open = self.look(|state| {
            let row = state.conflict(surface, key, &*chain)?;
            let is_settled = |head: &Head| state.is_settled(surface, key, &OpName::from(head));
            let settled: Vec<OpName> =
                row.others().iter().filter(|head| is_settled(head)).map(OpName::from).collect();
            Some((row, settled))
        })?;
        let Some((view, settled)) = open else { return Ok(None) };
        let mut row = self.row_of(surface, key, &view, true)?;
        if surface.tier() != Tier::Registry {
            row.others.retain(|value| !settled.contains(&name_of(value)));
        }
        Ok(Some(row))
    }

    fn decisions(
        &self,
        of: Option<(&Surface, &str)>,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<Decision>, NodeError> {
        self.steadily(|| self.decisions_now(of, after, limit))
    }

    fn decisions_now(
        &self,
        of: Option<(&Surface, &str)>,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<Decision>, NodeError> {
        let mut listed = self.look(|state| state.decisions(of))?;
        let place = |listed: &crate::fold::ListedRow| (listed.row.shown().hlc, listed.row.shown().dot);
        listed.sort_by_key(|listed| std::cmp::Reverse(place(listed)));
        listed.retain(|listed| after.is_none_or(|after| place(listed) < after));
        let mut decisions = Vec::new();
        for listed in listed.into_iter().take(limit) {
            let value = self.value_of(listed.row.shown())?;
            let said = value.payload.as_ref().and_then(said);
            // Rows of this surface that somebody else has put there decide nothing.
            let Some(said) = said else { continue };
            decisions.push(Decision { key: listed.key, dot: value.dot, hlc: value.hlc, ..said });
        }
        Ok(decisions)
    }

    fn op(&self, place: &Dot) -> Result<Option<StoredOp>, NodeError> {
        let Some(op) = self.op_at(place)? else { return Ok(None) };
        let id = self.id_of(&op);
        let OpAt { dot, hlc, kind, flags, body } = op;
        let view = OpView::decode(kind, flags, &body).ok();
        let touches = view.as_ref().and_then(touches);
        let payload = view.as_ref().and_then(value_in);
        Ok(Some(StoredOp { id, dot, hlc, kind: OpKind::from_number(kind), touches, payload }))
    }
}

fn touches(op: &OpView<'_>) -> Option<(String, String)> {
    let key = match op {
        OpView::Intent { agent, run, .. } => intent_key(agent, run),
        other => other.key()?.to_owned(),
    };
    Some((op.surface()?.to_owned(), key))
}

fn name_of(value: &RowValue) -> OpName {
    OpName { dot: value.dot, hlc: value.hlc }
}

/// What a row of the trail says; the place is for the caller to fill in.
fn said(payload: &Payload) -> Option<Decision> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(payload.as_str()).ok()?;
    let text = |name: &str| serde_json::from_str::<String>(members.get(name)?.get()).ok();
    let ops: Vec<String> = serde_json::from_str(members.get("ops")?.get()).ok()?;
    let ops: Vec<OpName> = ops.iter().map(|op| OpName::parse(op)).collect::<Option<_>>()?;
    let first = ops.first()?;
    Some(Decision {
        key: String::new(),
        dot: first.dot,
        hlc: first.hlc,
        surface: text("surface")?.parse().ok()?,
        id: text("id")?,
        choice: text("choice")?,
        taken: text("taken").and_then(|taken| OpName::parse(&taken)),
        value: members.get("value").and_then(|raw| Payload::parse(raw.get()).ok()),
        ops,
    })
}
