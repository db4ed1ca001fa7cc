//! What a store says of itself, so that an older copy of it can be told from the one last in use.

use redb::ReadableDatabase;

use super::disk::guarded;
use super::error::{Part, StoreError};
use super::tables::{META, META_INSTANCE, META_OPENS};
use super::vaults::fresh;
use super::{Store, lock_mutex};

/// Which life of a store this is, and how often it was opened in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreMark {
    /// 16 random bytes, given when a home is made and whenever its past is in doubt.
    pub instance: [u8; 16],
    /// How often it was opened since.
    pub open_count: u64,
}

impl StoreMark {
    /// The mark of a store whose life begins now.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the system gives no random bytes.
    pub fn fresh() -> Result<Self, StoreError> {
        Ok(Self { instance: fresh()?, open_count: 0 })
    }

    /// The mark after one more opening.
    pub const fn opened(self) -> Self {
        Self { open_count: self.open_count.saturating_add(1), ..self }
    }
}

impl Store {
    /// The mark it was given last; `None` for a store from before there were marks.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`] and its like.
    pub fn mark(&self) -> Result<Option<StoreMark>, StoreError> {
        let damaged = || StoreError::damaged(Part::Row { table: "meta" });
        self.reading(|db| {
            let meta = db.begin_read()?.open_table(META)?;
            let (instance, opens) = (meta.get(META_INSTANCE)?, meta.get(META_OPENS)?);
            let (instance, opens) = match (&instance, &opens) {
                (None, None) => return Ok(None),
                (Some(instance), Some(opens)) => (instance.value(), opens.value()),
                (Some(_), None) | (None, Some(_)) => return Err(damaged()),
            };
            let instance = instance.try_into().map_err(|_| damaged())?;
            let open_count = u64::from_be_bytes(opens.try_into().map_err(|_| damaged())?);
            Ok(Some(StoreMark { instance, open_count }))
        })
    }

    /// Gives it a mark, durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`], [`StoreError::ReadOnly`], [`StoreError::Io`].
    pub fn set_mark(&self, mark: &StoreMark) -> Result<(), StoreError> {
        // Commits are serial.
        let doubt = lock_mutex(&self.0.doubt);
        let db = self.engine()?;
        let written = guarded(|| {
            let txn = db.get().begin_write()?;
            {
                let mut meta = txn.open_table(META)?;
                meta.insert(META_INSTANCE, &mark.instance[..])?;
                meta.insert(META_OPENS, &mark.open_count.to_be_bytes()[..])?;
            }
            Ok(txn.commit()?)
        });
        drop(db);
        if written.as_ref().is_err_and(StoreError::spoils_engine) {
            self.close_engine();
        }
        drop(doubt);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{Author, reopen, store};

    #[test]
    fn a_mark_stays_with_its_store() {
        let (store, disk) = store(&mut Author::new(1));
        assert_eq!(store.mark().unwrap(), None);
        let mark = StoreMark::fresh().unwrap().opened();

        store.set_mark(&mark).unwrap();
        assert_eq!(store.mark().unwrap(), Some(mark));
        drop(store);

        let (store, _) = reopen(&disk);
        assert_eq!(store.mark().unwrap(), Some(mark));
        store.set_mark(&mark.opened()).unwrap();
        assert_eq!(store.mark().unwrap().map(|mark| mark.open_count), Some(2));
        assert_ne!(StoreMark::fresh().unwrap().instance, mark.instance);
    }

    #[test]
    fn a_mark_that_is_not_one_is_damage() {
        let (store, _) = store(&mut Author::new(1));
        for (name, value) in [(META_INSTANCE, vec![1; 16]), (META_OPENS, vec![1; 7])] {
            let db = store.engine().unwrap();
            let txn = db.get().begin_write().unwrap();
            txn.open_table(META).unwrap().insert(name, &value[..]).unwrap();
            txn.commit().unwrap();
            drop(db);

            let refused = store.mark();

            assert!(matches!(refused, Err(StoreError::Damaged { what: Part::Row { table: "meta" }, .. })));
        }
    }
}
