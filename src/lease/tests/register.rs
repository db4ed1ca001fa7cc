use super::bench::*;
use crate::lease::*;

const GRANTED_1: Result<Answer, LeaseRefused> = Ok(Answer::Granted { epoch: crate::model::LeaseEpoch::MIN });

#[test]
fn one_holder_at_a_time_with_rising_tokens() {
    let mut bench = Bench::new();

    assert_eq!(bench.acquire(0, holder(2), 1), GRANTED_1);
    assert!(matches!(
        bench.acquire(10, holder(3), 1),
        Err(LeaseRefused::Held { holder: by, epoch: e, remaining_ms: 32_290 }) if by == holder(2) && e == epoch(1)
    ));
    assert_eq!(bench.current(20), Some((epoch(1), holder(2))));
    assert_eq!(
        bench.call(30, holder(2), 2, Verb::Release { epoch: epoch(1) }),
        Ok(Answer::Released { epoch: epoch(1) })
    );
    assert_eq!(bench.current(40), None);
    assert_eq!(bench.acquire(50, holder(3), 2), Ok(Answer::Granted { epoch: epoch(2) }));
}

#[test]
fn nothing_is_answered_before_it_is_durable() {
    let mut bench = Bench::new();

    bench.ask(0, holder(2), 1, Verb::Acquire { ttl: Ttl::DEFAULT });
    bench.ask(0, holder(3), 1, Verb::Current);

    assert!(bench.replies.is_empty() && bench.writes.len() == 1);
    bench.sync(5);
    assert_eq!(bench.replies.len(), 2);
}

#[test]
fn a_restart_frees_nothing() {
    let mut bench = Bench::new();
    assert_eq!(bench.acquire(0, holder(2), 1), GRANTED_1);

    bench.restart(40_000);

    assert_eq!(bench.register.phase(), Phase::Recovering);
    assert!(matches!(bench.acquire(72_000, holder(3), 1), Err(LeaseRefused::Held { .. })));
    assert_eq!(bench.acquire(72_300, holder(3), 2), Ok(Answer::Granted { epoch: epoch(2) }));
    assert_eq!(bench.register.phase(), Phase::Serving);
}
