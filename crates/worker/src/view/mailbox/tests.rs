#![cfg_attr(loom, allow(unused_imports))]
use super::*;

/// A value that says on which side it was dropped: nobody may drop it but the one who holds it last on control.
#[cfg(not(loom))]
mod sequential {
    use super::*;

    #[test]
    fn newest_wins_and_the_overtaken_come_home() {
        let (mut publisher, mut inbox) = mailbox(3);
        assert_eq!((inbox.newest(), publisher.collect()), (None, None));
        for i in 1..=3 {
            assert_eq!(publisher.publish(Arc::new(i)), Ok(()));
        }
        assert_eq!(inbox.newest().as_deref(), Some(&3));
        assert_eq!(inbox.newest(), None);
        assert_eq!(
            [publisher.collect(), publisher.collect(), publisher.collect()].map(|v| v.as_deref().copied()),
            [Some(1), Some(2), None]
        );
    }

    #[test]
    fn full_until_the_worker_gives_back() {
        let (mut publisher, mut inbox) = mailbox(1);
        assert_eq!(publisher.publish(Arc::new(1)), Ok(()));
        let used = inbox.newest().unwrap();
        assert_eq!(publisher.publish(Arc::new(2)), Ok(()));
        assert_eq!(publisher.publish(Arc::new(3)), Err(MailboxFull), "one in use, one waiting");
        let newer = inbox.newest().unwrap();
        assert_eq!(inbox.give_back(used), Ok(()));
        assert_eq!(publisher.publish(Arc::new(3)), Err(MailboxFull), "not yet collected");
        assert_eq!(publisher.collect().as_deref(), Some(&1));
        assert_eq!(publisher.publish(Arc::new(3)), Ok(()));
        assert_eq!((*newer, inbox.newest().as_deref()), (2, Some(&3)));
    }

    #[test]
    fn the_value_the_worker_was_born_with_comes_home_too() {
        let (mut publisher, mut inbox) = mailbox(1);
        let mut used = Arc::new(0);
        let mut home = Vec::new();
        for i in 1..100 {
            while let Some(value) = publisher.collect() {
                home.push(*value);
            }
            if publisher.publish(Arc::new(i)).is_ok() && i % 3 != 0 {
                continue;
            }
            if let Some(new) = inbox.newest() {
                let old = std::mem::replace(&mut used, new);
                assert_eq!(inbox.give_back(old), Ok(()), "always room");
            }
        }
        assert!(home.contains(&0) && home.len() > 40, "{home:?}");
    }

    #[test]
    fn giving_back_more_than_came_is_refused_not_dropped() {
        let (_publisher, mut inbox) = mailbox::<u32>(1);
        let foreign = Arc::new(7);
        for _ in 0..3 {
            assert!(inbox.give_back(Arc::clone(&foreign)).is_ok());
        }
        assert!(inbox.give_back(Arc::clone(&foreign)).is_err());
    }

    #[test]
    fn nothing_leaks_when_both_ends_go() {
        let value = Arc::new(());
        let (mut publisher, mut inbox) = mailbox(3);
        for _ in 0..4 {
            assert!(publisher.publish(Arc::clone(&value)).is_ok());
        }
        drop(inbox.newest());
        drop(inbox);
        drop(publisher);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}

/// The protocol on the model of the queue: what the worker holds is whole, newer than what it held before, and freed by
/// control only after the worker has let go of it.
#[cfg(loom)]
mod explored {
    use super::*;
    use loom::thread;

    use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    /// Relaxed accesses only: whatever the worker sees in order is in order because the queues made it so.
    struct Value {
        generation: AtomicU32,
        gone: AtomicBool,
    }

    fn value(generation: u32) -> Arc<Value> {
        let value = Value { generation: AtomicU32::new(0), gone: AtomicBool::new(false) };
        value.generation.store(generation, Ordering::Relaxed);
        Arc::new(value)
    }

    /// The worker reads a value: it must be complete, and not freed.
    fn look(value: &Value) -> u32 {
        assert!(!value.gone.load(Ordering::Relaxed), "freed while in use");
        let generation = value.generation.load(Ordering::Relaxed);
        assert_ne!(generation, 0, "seen before it was complete");
        generation
    }

    /// Control frees a value.
    fn free(value: &Value) {
        value.gone.store(true, Ordering::Relaxed);
    }

    #[test]
    fn loom_values_are_freed_on_control_after_use() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let (mut publisher, mut inbox) = mailbox::<Value>(1);
            let worker = thread::spawn(move || {
                let mut used: Option<Arc<Value>> = None;
                for _ in 0..3 {
                    if let Some(new) = inbox.newest() {
                        assert!(look(&new) > used.as_deref().map_or(0, look));
                        if let Some(old) = used.replace(new) {
                            assert!(inbox.give_back(old).is_ok(), "always room");
                        }
                    }
                    // A burst: the view in use is read.
                    if let Some(used) = &used {
                        look(used);
                    }
                }
                (used, inbox)
            });
            let mut published = 0;
            let mut home = 0;
            for generation in 1..=3 {
                while let Some(value) = publisher.collect() {
                    free(&value);
                    home += 1;
                }
                if publisher.publish(value(generation)).is_ok() {
                    published += 1;
                }
            }
            let Ok((used, mut inbox)) = worker.join() else { unreachable!("the worker ends") };
            let waiting = inbox.newest();
            while let Some(value) = publisher.collect() {
                free(&value);
                home += 1;
            }
            let held = u32::from(used.is_some()) + u32::from(waiting.is_some());
            assert_eq!(published, home + held, "each value is in one place");
        });
    }
}
