//! Rows of one surface as values of one type.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::NodeError;
use super::follow::{Bookmark, FollowError, Follower};
use super::space::Space;
use super::types::{Appended, NewOp, Row};
use crate::model::{Dot, Payload, Surface};

/// A surface of rows or facts whose values have the type `T`. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let home = directory.path().join("home");
/// # kinfold::Node::init(&home, "laptop")?;
/// # let node = kinfold::Node::builder(&home).open().await?;
/// #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
/// struct Note {
///     text: String,
/// }
///
/// let notes = node.personal().typed::<Note>("registry:note")?;
/// notes.put("today", &Note { text: "bread".into() }).await?;
/// assert_eq!(notes.get("today")?, Some(Note { text: "bread".into() }));
/// assert_eq!(notes.list(None, 10)?.len(), 1);
/// notes.remove("today").await?;
/// assert_eq!(notes.get("today")?, None);
/// # node.stop().await?;
/// # Ok(())
/// # }
/// ```
pub struct Typed<T> {
    space: Space,
    surface: Surface,
    form: PhantomData<fn() -> T>,
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        Self { space: self.space.clone(), surface: self.surface.clone(), form: PhantomData }
    }
}

/// A change of a row whose values have a type.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TypedChange<T> {
    /// The row.
    pub key: String,
    /// The value the op gave it; `None` where the op removed it.
    pub value: Option<T>,
    /// The op. Its value is shown only if no other op won: ask [`Typed::get`] for what is.
    pub dot: Dot,
}

impl<T: Serialize + DeserializeOwned> Typed<T> {
    pub(super) fn new(space: Space, surface: &str) -> Result<Self, NodeError> {
        Ok(Self { space, surface: surface.parse()?, form: PhantomData })
    }

    /// The surface.
    pub const fn surface(&self) -> &Surface {
        &self.surface
    }

    /// Sets a row, or states a fact; returns once it is durable.
    ///
    /// # Errors
    /// As [`Space::put`].
    pub async fn put(&self, key: &str, value: &T) -> Result<Appended, NodeError> {
        self.space.put(&self.surface.to_string(), key, value).await
    }

    /// Removes a row; returns once that is durable.
    ///
    /// # Errors
    /// As [`Space::remove`].
    pub async fn remove(&self, key: &str) -> Result<Appended, NodeError> {
        self.space.remove(&self.surface, key).await
    }

    /// The value that is shown; `None` where there is none or it was removed.
    ///
    /// # Errors
    /// [`NodeError::NotOfType`], and as [`Space::get`].
    pub fn get(&self, key: &str) -> Result<Option<T>, NodeError> {
        let Some(row) = self.space.get(&self.surface, key)? else { return Ok(None) };
        self.shown(&row)
    }

    /// Keys and shown values in key order, beginning after `after`, at most `limit` of them.
    ///
    /// # Errors
    /// [`NodeError::NotOfType`] for the first row that is none, and as [`Space::list`].
    pub fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<(String, T)>, NodeError> {
        let rows = self.space.list(&self.surface, after, limit)?;
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(value) = self.shown(&row)? {
                values.push((row.key, value));
            }
        }
        Ok(values)
    }

    /// Changes of this surface without a gap, as [`Space::follow`] gives them.
    ///
    /// # Errors
    /// As [`Space::follow`].
    pub async fn follow(&self, after: Option<Bookmark>) -> Result<TypedFollower<T>, NodeError> {
        let follower = self.space.follow(after).await?;
        Ok(TypedFollower { follower, surface: self.surface.clone(), form: PhantomData })
    }

    fn shown(&self, row: &Row) -> Result<Option<T>, NodeError> {
        read(&self.surface, &row.key, row.shown.payload.as_ref())
    }
}

/// Changes of one surface whose values have a type.
pub struct TypedFollower<T> {
    follower: Follower,
    surface: Surface,
    form: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> TypedFollower<T> {
    /// How far it has come.
    pub const fn bookmark(&self) -> &Bookmark {
        self.follower.bookmark()
    }

    /// The next change; waits for one. Cut off, it loses nothing. A follower that lags behind catches
    /// up by itself.
    ///
    /// # Errors
    /// [`NodeError::NotOfType`], after which the next call goes on; [`NodeError::BookmarkStale`],
    /// [`NodeError::Stopped`], and as [`Space::get`].
    pub async fn next(&mut self) -> Result<TypedChange<T>, NodeError> {
        loop {
            let change = match self.follower.next().await {
                Ok(change) => change,
                Err(FollowError::Lagged { .. }) => continue,
                Err(FollowError::Node(error)) => return Err(error),
            };
            if change.surface == self.surface {
                let value = read(&self.surface, &change.key, change.payload.as_ref())?;
                return Ok(TypedChange { key: change.key, value, dot: change.dot });
            }
        }
    }
}

fn read<T: DeserializeOwned>(
    surface: &Surface,
    key: &str,
    payload: Option<&Payload>,
) -> Result<Option<T>, NodeError> {
    let Some(payload) = payload else { return Ok(None) };
    serde_json::from_str(payload.as_str()).map(Some).map_err(|source| NodeError::NotOfType {
        surface: surface.clone(),
        key: key.to_owned(),
        source,
    })
}

impl Space {
    /// The rows of a surface as values of one type.
    ///
    /// # Errors
    /// [`NodeError::Surface`].
    pub fn typed<T: Serialize + DeserializeOwned>(&self, surface: &str) -> Result<Typed<T>, NodeError> {
        Typed::new(self.clone(), surface)
    }

    /// Removes a row of a registry surface; returns once that is durable.
    ///
    /// # Errors
    /// As [`Space::append`].
    pub async fn remove(&self, surface: &Surface, key: &str) -> Result<Appended, NodeError> {
        let removed =
            self.append(vec![NewOp::Delete { surface: surface.clone(), key: key.to_owned() }]).await?;
        Ok(*removed.first().expect("one op was given, one was placed"))
    }

    /// Adds an event to a stream of an event surface; returns once it is durable.
    ///
    /// # Errors
    /// [`NodeError::Surface`], [`NodeError::Payload`], and as [`Space::append`].
    pub async fn record(
        &self,
        surface: &str,
        stream: &str,
        value: impl Serialize,
    ) -> Result<Appended, NodeError> {
        let (surface, payload) = (surface.parse()?, Payload::from_value(&value)?);
        let added = self.append(vec![NewOp::Event { surface, stream: stream.to_owned(), payload }]).await?;
        Ok(*added.first().expect("one op was given, one was placed"))
    }

    /// Makes a value of a stream's events: `step` is called with each, in total order, beginning with
    /// `first`. The same events give the same value on every device, if `step` depends on nothing else.
    ///
    /// Events are read a page at a time, so a stream of any length takes little memory. Events that
    /// arrive meanwhile are taken if their place is still ahead.
    ///
    /// # Errors
    /// As [`Space::events`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let home = directory.path().join("home");
    /// # kinfold::Node::init(&home, "laptop")?;
    /// # let node = kinfold::Node::builder(&home).open().await?;
    /// let space = node.personal();
    /// for route in ["a", "b", "b"] {
    ///     space.record("routing", "mail", route).await?;
    /// }
    /// let last = space.replay(&"routing".parse()?, "mail", String::new(), |_, event| {
    ///     event.payload.as_str().to_owned()
    /// })?;
    /// assert_eq!(last, "\"b\"");
    /// # node.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn replay<S>(
        &self,
        surface: &Surface,
        stream: &str,
        first: S,
        mut step: impl FnMut(S, &super::types::StreamEvent) -> S,
    ) -> Result<S, NodeError> {
        let (mut state, mut after) = (first, None);
        loop {
            let page = self.events(surface, stream, after, REPLAY_EVENTS)?;
            let Some(last) = page.last() else { return Ok(state) };
            after = Some((last.hlc, last.dot));
            state = page.iter().fold(state, &mut step);
        }
    }
}

/// Events that a replay holds at once.
const REPLAY_EVENTS: usize = 256;
