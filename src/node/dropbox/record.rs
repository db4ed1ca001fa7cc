//! Which drop boxes there are, over restarts: `HOME/dropboxes.json`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{DROPBOXES_MAX, DropBox};
use crate::dropbox::Place;
use crate::model::Scope;

/// The list of drop boxes of one home.
#[derive(Default)]
pub(in crate::node) struct Records(Mutex<Vec<Arc<DropBox>>>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListForm {
    version: u32,
    dropboxes: Vec<EntryForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryForm {
    place: String,
    scope: String,
}

impl Records {
    /// Reads the list of a home; there is none before the first drop box.
    pub fn read(home: &Path) -> io::Result<Self> {
        let text = match fs::read(home.join(FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let form: ListForm = serde_json::from_slice(&text)?;
        if form.version != VERSION || form.dropboxes.len() > DROPBOXES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "written by a later version"));
        }
        let invalid =
            |error: &dyn std::error::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        let read = |entry: &EntryForm| {
            // A bucket that this build has no client for stays on the list, and says so in its rounds.
            let place = Place::parse(&entry.place).unwrap_or_else(|_| Place::Bucket(entry.place.clone()));
            let scope: Scope = entry.scope.parse().map_err(|error| invalid(&error))?;
            Ok(DropBox::new(place, scope))
        };
        let list: io::Result<Vec<_>> = form.dropboxes.iter().map(read).collect();
        Ok(Self(Mutex::new(list?)))
    }

    pub fn list(&self) -> Vec<Arc<DropBox>> {
        self.lock().clone()
    }

    pub fn find(&self, place: &Place, scope: &Scope) -> Option<Arc<DropBox>> {
        self.lock().iter().find(|dropbox| dropbox.place == *place && dropbox.scope == *scope).cloned()
    }

    pub fn add(&self, home: &Path, added: Arc<DropBox>) -> io::Result<()> {
        let mut list = self.lock();
        let mut next = list.clone();
        next.push(added);
        write(home, &next)?;
        *list = next;
        Ok(())
    }

    pub fn remove(&self, home: &Path, place: &Place, scope: &Scope) -> io::Result<Option<Arc<DropBox>>> {
        let mut list = self.lock();
        let mut next = list.clone();
        let at = next.iter().position(|dropbox| dropbox.place == *place && dropbox.scope == *scope);
        let Some(removed) = at.map(|at| next.remove(at)) else { return Ok(None) };
        write(home, &next)?;
        *list = next;
        Ok(Some(removed))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<DropBox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole under its name, or as it was before.
fn write(home: &Path, list: &[Arc<DropBox>]) -> io::Result<()> {
    let entry = |dropbox: &Arc<DropBox>| EntryForm {
        place: dropbox.place.to_string(),
        scope: dropbox.scope.to_string(),
    };
    let form = ListForm { version: VERSION, dropboxes: list.iter().map(entry).collect() };
    let unfinished = home.join(format!("{FILE}.new"));
    let mut file = File::create(&unfinished)?;
    file.write_all(&serde_json::to_vec_pretty(&form)?)?;
    file.sync_all()?;
    fs::rename(&unfinished, home.join(FILE))?;
    #[cfg(unix)]
    File::open(home)?.sync_all()?;
    Ok(())
}

/// The list, in a home.
pub(in crate::node) const FILE: &str = "dropboxes.json";
const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_back_and_a_damaged_one_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let records = Records::read(home.path()).unwrap();
        let place = Place::parse("/mnt/stick").unwrap();
        let acme = Scope::Shared("acme".into());

        records.add(home.path(), DropBox::new(place.clone(), Scope::Personal)).unwrap();
        records.add(home.path(), DropBox::new(place.clone(), acme.clone())).unwrap();

        let read = Records::read(home.path()).unwrap();
        assert_eq!(read.list().len(), 2);
        assert!(read.find(&place, &acme).is_some());
        assert!(read.remove(home.path(), &place, &acme).unwrap().is_some());
        assert!(read.remove(home.path(), &place, &acme).unwrap().is_none());
        assert_eq!(Records::read(home.path()).unwrap().list().len(), 1);
        for damaged in [
            "",
            "{}",
            r#"{"version":2,"dropboxes":[]}"#,
            r#"{"version":1,"dropboxes":[{"place":"/x","scope":"?"}]}"#,
        ] {
            fs::write(home.path().join(FILE), damaged).unwrap();
            assert!(Records::read(home.path()).is_err(), "{damaged}");
        }
    }
}
