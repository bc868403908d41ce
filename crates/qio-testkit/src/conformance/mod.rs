//! One suite for every channel.
//!
//! A row is one line: [`conformance!`](crate::conformance!) with a name and a [`Subject`] makes a
//! test of every check, plain and behind a [`Chaos`](crate::Chaos) channel. A check that does not
//! concern a subject (descriptors where none can be sent) passes; what concerns it follows from
//! the way its two channels are joined and from their features.

mod buffers;
mod close;
mod data;
mod descriptors;
mod end;
mod faults;
mod identity;
mod interrupts;
mod peek;
mod shutdown;
mod subject;
mod transfer;
mod waiting;

use std::time::Duration;

pub(crate) use data::close;
pub use subject::{Pair, Relation, Subject};

/// One check: panics when the subject fails it.
pub type Check = fn(&Subject);

/// How long one check may take: a hang is told from a slow machine by this.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs one check in a [`scope`](crate::scope()).
///
/// # Panics
///
/// When the subject fails, leaks a descriptor or hangs.
pub fn run(check: Check, subject: &Subject) {
    crate::scope(LIMIT, |ledger| {
        subject.make_pair_watched_by(ledger);
        check(subject);
    });
}

/// Runs every check, for subjects that are made at run time.
///
/// # Panics
///
/// At the first check that fails, after its name was put into the panic's message.
pub fn run_all(subject: &Subject) {
    for (name, check) in CHECKS {
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(*check, subject)));
        if let Err(panic) = result {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            panic!("{}: {name}: {text}", subject.name());
        }
    }
}

/// Writes the list of checks once: as functions, as a table, and as the tests of a row.
macro_rules! checks {
    ($d:tt $($module:ident { $($check:ident,)* })*) => {
        $(pub use $module::{$($check),*};)*

        /// Every check by its name.
        pub const CHECKS: &[(&str, Check)] = &[$($((stringify!($check), $check as Check)),*),*];

        /// Makes a row of the suite: a module with one test for each check, plain and in chaos.
        ///
        /// ```ignore
        /// conformance!(socket_pair, Subject::pair::<Socket>("socket pair", make_socket_pair));
        /// ```
        #[macro_export]
        macro_rules! conformance {
            ($d row:ident, $d subject:expr) => {
                mod $d row {
                    mod plain {
                        use super::super::*;
                        $($(
                            #[test]
                            fn $check() {
                                $crate::conformance::run($crate::conformance::$check, &$d subject);
                            }
                        )*)*
                    }
                    mod in_chaos {
                        use super::super::*;
                        $($(
                            #[test]
                            fn $check() {
                                let subject = $d subject.in_chaos();
                                $crate::conformance::run($crate::conformance::$check, &subject);
                            }
                        )*)*
                    }
                }
            };
        }
    };
}

checks! { $
    transfer {
        a_megabyte_in_odd_vectors_goes_both_ways_at_once,
        every_chaos_delivers_the_same_bytes,
        thousands_of_vectors_arrive_in_order,
        a_retry_with_other_data_sends_no_stale_byte,
    }
    buffers {
        an_empty_buffer_is_a_no_op_in_every_state,
        a_store_gives_back_what_was_written,
    }
    end {
        a_clean_end_and_a_truncation_differ,
        the_end_is_sticky,
        finish_leaves_reading_open,
        finishing_again_changes_nothing,
        all_data_comes_before_the_end,
        writing_to_a_peer_that_is_gone_is_an_error,
        dropping_a_channel_ends_the_stream,
    }
    shutdown {
        shutdown_wakes_a_blocked_reader,
        shutdown_wakes_a_blocked_writer,
        shutting_down_one_direction_keeps_the_other,
    }
    close {
        close_wakes_a_blocked_reader,
        close_wakes_a_blocked_writer,
        close_wakes_a_waiter,
        the_peer_sees_the_end_although_a_watch_lives,
        closing_again_changes_nothing,
        a_closed_channel_refuses_everything,
        a_forgotten_leg_never_polls_a_reused_number,
        closing_while_others_read_and_write_ends_them,
    }
    descriptors {
        descriptors_arrive_with_their_byte,
        descriptors_with_a_later_segment_are_kept,
        more_descriptors_than_fit_are_an_error,
        more_descriptors_than_a_message_takes_are_refused,
        descriptors_need_a_byte,
        descriptors_go_once_after_would_block,
        descriptors_that_nobody_asked_for_are_closed,
        descriptors_keep_their_mode_unless_told,
        descriptors_are_refused_without_the_feature,
    }
    peek {
        a_peek_takes_nothing,
        a_peek_for_a_number_wakes_for_arrivals_alone,
        a_peek_for_a_number_ends_with_the_stream_the_deadline_and_the_channel,
        a_peek_is_refused_where_it_cannot_be,
    }
    waiting {
        a_read_of_nothing_would_block,
        a_second_waiter_is_refused,
        a_wait_ends_at_its_deadline,
        a_wait_for_both_tells_which,
        a_wait_that_was_given_up_can_be_made_again,
        waiting_for_data_wakes_once,
        data_that_stays_is_reported_again,
        a_leg_that_stands_is_what_would_be_asked_for,
        the_end_wakes_whoever_waits,
        spurious_readiness_would_blocks_at_once,
    }
    interrupts {
        an_interrupter_ends_one_wait_of_a_reader,
        an_interrupter_ends_one_wait_of_a_writer,
        an_interruption_cuts_no_message,
    }
    identity {
        features_tell_what_works,
        both_sides_have_the_same_features,
        find_sees_through_every_wrapper,
        a_channel_is_std_io,
        a_name_is_shared_and_told,
        the_mode_can_be_changed_at_any_time,
    }
    faults {
        a_failure_at_any_call_comes_out_as_it_is,
        a_cut_at_any_byte_ends_every_call,
        a_close_at_any_step_ends_every_call,
    }
}
