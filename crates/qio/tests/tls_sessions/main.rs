//! Sessions of TLS over real channels: who is let in, what goes wrong, and what is said in between.
//! Both engines are asked the same questions; what only one of them has is in its file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

/// The table of the questions, as the tests of an engine.
macro_rules! questions {
    ($engine:ident) => {
        questions! { @ $engine
            admission {
                a_server_of_an_unknown_authority_is_refused_and_told,
                an_expired_certificate_is_refused_with_its_date,
                a_certificate_for_another_name_is_refused_with_the_names_it_has,
                revoked_certificates_are_refused_on_both_sides,
                lists_of_others_revoke_nothing_and_lists_of_nothing_are_refused,
                client_certificates_are_off_optional_or_required,
                rules_let_clients_in_and_tell_those_they_keep_out,
                rules_about_servers_hold_on_the_client,
                a_pin_stands_for_names_dates_and_authorities,
                clients_can_be_pinned,
                a_certificate_without_its_key_is_refused_also_when_pinned_or_anybody_is_believed,
                of_several_identities_the_one_with_the_name_is_shown,
            }
            failures {
                an_end_without_close_notify_is_an_error_unless_a_relaxed_one_is_asked_for,
                a_handshake_that_stalls_ends_at_its_deadline,
                a_peer_without_tls_is_told_apart_with_what_it_sent,
                handshakes_that_fail_leave_nothing_behind,
                dropping_a_handshake_at_any_step_leaks_nothing,
            }
            life {
                both_sides_know_what_was_agreed_on,
                versions_can_be_limited_on_either_side,
                versions_and_protocols_without_anything_in_common_are_refused,
                the_second_connection_resumes_the_session_of_the_first,
                a_reload_changes_new_connections_and_no_other,
                fifty_vectors_of_a_byte_are_one_record,
                keys_are_logged_when_they_are_asked_for_and_only_then,
            }
        }
    };
    (@ $engine:ident $($file:ident { $($question:ident,)* })*) => {
        $($(#[test]
        fn $question() {
            crate::world::alone(crate::$file::$question::<$engine>);
        })*)*
    };
}

mod admission;
#[cfg(feature = "openssl")]
mod by_openssl;
mod by_rustls;
mod engine;
mod failures;
mod life;
mod world;
