//! Reading rows and events: the index says where, the blocks hold what.

use std::sync::Arc;

use super::error::NodeError;
use super::index::Index;
use super::types::{Row, RowValue, StreamEvent};
use crate::fold::{Head, NoChain, RowFilter, RowView};
use crate::model::{Dot, Hlc, Payload, Surface};
use crate::store::Blocks;
use crate::wire::OpView;

/// One row; `None` where nothing is shown.
pub(super) fn row(
    index: &Index,
    blocks: &Arc<Blocks>,
    surface: &Surface,
    key: &str,
) -> Result<Option<Row>, NodeError> {
    let view = index.read()?.row(surface, key);
    match view {
        Some(view) if view.is_live() => row_of(index, blocks, surface, key, &view).map(Some),
        _ => Ok(None),
    }
}

/// Live rows in key order.
pub(super) fn rows(
    index: &Index,
    blocks: &Arc<Blocks>,
    surface: &Surface,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Row>, NodeError> {
    let listed = index.read()?.rows(surface, after, limit, RowFilter::Live);
    listed.iter().map(|listed| row_of(index, blocks, surface, &listed.key, &listed.row)).collect()
}

/// Rows that hold more than one value.
pub(super) fn conflicts(
    index: &Index,
    blocks: &Arc<Blocks>,
    after: Option<(&Surface, &str)>,
    limit: usize,
) -> Result<Vec<Row>, NodeError> {
    let listed = index.read()?.conflicts(after, limit, &NoChain);
    listed
        .iter()
        .map(|conflict| row_of(index, blocks, &conflict.surface, &conflict.key, &conflict.row))
        .collect()
}

/// Events of a stream in total order.
pub(super) fn events(
    index: &Index,
    blocks: &Arc<Blocks>,
    surface: &Surface,
    stream: &str,
    after: Option<(Hlc, Dot)>,
    limit: usize,
) -> Result<Vec<StreamEvent>, NodeError> {
    let listed = index.read()?.events(surface, stream, after, limit);
    let mut events = Vec::with_capacity(listed.len());
    for event in listed {
        let Some(payload) = payload(index, blocks, &event.place)? else { continue };
        events.push(StreamEvent { stream: stream.to_owned(), dot: event.dot, hlc: event.hlc, payload });
    }
    Ok(events)
}

fn row_of(
    index: &Index,
    blocks: &Arc<Blocks>,
    surface: &Surface,
    key: &str,
    view: &RowView,
) -> Result<Row, NodeError> {
    let shown = value_of(index, blocks, view.shown())?;
    let others = if view.is_conflict() {
        view.others().iter().map(|head| value_of(index, blocks, head)).collect::<Result<_, _>>()?
    } else {
        Vec::new()
    };
    Ok(Row { surface: surface.clone(), key: key.to_owned(), shown, others })
}

fn value_of(index: &Index, blocks: &Arc<Blocks>, head: &Head) -> Result<RowValue, NodeError> {
    let payload = if head.is_tombstone { None } else { payload(index, blocks, &head.place)? };
    Ok(RowValue { dot: head.dot, hlc: head.hlc, payload })
}

/// The payload of the op that stands there; `None` where its author wrote none that is one.
fn payload(index: &Index, blocks: &Arc<Blocks>, dot: &Dot) -> Result<Option<Payload>, NodeError> {
    let Some(op) = blocks.op(&index.space, dot)? else { return Err(NodeError::OpMissing { dot: *dot }) };
    let view = OpView::decode(op.kind, op.flags, &op.body).ok();
    Ok(view.and_then(|view| view.payload().and_then(|text| Payload::parse(text).ok())))
}
