//! The clauses that every [`HostStore`](crate::store::HostStore) has to keep. Each works on a host of its own, so all may share a database.

mod adopt;
mod api_keys;
mod audit;
mod bench;
mod claim;
mod commit;
mod history;
mod journal;
mod list;
mod ownership;
mod port_ranges;
mod renter;
mod suspend;

pub use adopt::{a_lost_rental_is_adopted_once_and_holds_what_it_has, a_recovered_rental_takes_nothing_from_others};
pub use api_keys::keys_are_found_by_their_digest_until_revoked;
pub use audit::who_did_what_is_read_newest_first_and_bounded;
pub use claim::{
    a_claim_is_read_back_whole, a_name_is_free_again_after_the_end, a_port_asked_for_is_held_once,
    a_refused_request_binds_no_key, datagrams_are_refused_where_the_engine_publishes_none, gpus_are_never_held_twice,
    many_claims_at_once_win_as_often_as_there_are_gpus, one_key_is_one_rental_for_ever,
    the_same_request_under_one_name_is_one_rental,
};
pub use commit::{
    a_stale_write_changes_nothing, events_fold_to_the_rental, last_lines_outlive_the_container_for_their_time,
    new_ports_replace_the_old_ones, new_secrets_replace_the_old_ones,
    the_end_frees_what_was_held_and_erases_the_credential,
};
pub use history::{ended_rentals_are_read_by_age_and_forgotten, lists_are_what_their_filters_let_pass};
pub use journal::{
    publications_at_once_leave_no_gap, readers_miss_nothing_while_others_write,
    the_journal_has_every_event_once_and_in_order,
};
pub use list::{lists_are_filtered_and_paged, lists_are_filtered_by_name_label_and_outcome};
pub use ownership::{
    a_clone_of_the_engines_machine_is_another_engine, a_host_with_live_rentals_is_pinned_to_its_engine,
    intents_need_no_epoch, observations_need_the_current_epoch, who_acts_is_noted_until_it_resigns,
};
pub use port_ranges::{
    a_range_in_use_is_not_given_back, a_range_stays_its_renters_until_it_is_given_back,
    many_renters_at_once_get_ranges_of_their_own,
};
pub use renter::{
    one_renter_has_no_more_than_one_may, there_are_so_many_places_without_a_gpu,
    what_came_to_nothing_counts_for_a_while,
};
pub use suspend::{
    a_container_leads_to_its_rental_for_ever, a_resumed_rental_takes_nothing_from_others,
    what_is_suspended_holds_nothing_but_its_name,
};

/// Makes one test of every clause: `store_suite!(BLOCK_ON, MAKE)`. `BLOCK_ON` runs a future to its end on any
/// executor; `MAKE` is called for each test and gives a future of a [`HostStore`](crate::store::HostStore).
#[macro_export]
macro_rules! store_suite {
    ($block_on:expr, $make:expr) => {
        $crate::store_suite!(@clauses $block_on, $make;
            a_claim_is_read_back_whole,
            gpus_are_never_held_twice,
            who_acts_is_noted_until_it_resigns,
            one_renter_has_no_more_than_one_may,
            there_are_so_many_places_without_a_gpu,
            what_came_to_nothing_counts_for_a_while,
            many_claims_at_once_win_as_often_as_there_are_gpus,
            a_port_asked_for_is_held_once,
            datagrams_are_refused_where_the_engine_publishes_none,
            the_same_request_under_one_name_is_one_rental,
            a_name_is_free_again_after_the_end,
            one_key_is_one_rental_for_ever,
            a_refused_request_binds_no_key,
            a_stale_write_changes_nothing,
            observations_need_the_current_epoch,
            intents_need_no_epoch,
            a_host_with_live_rentals_is_pinned_to_its_engine,
            a_clone_of_the_engines_machine_is_another_engine,
            the_end_frees_what_was_held_and_erases_the_credential,
            a_lost_rental_is_adopted_once_and_holds_what_it_has,
            a_recovered_rental_takes_nothing_from_others,
            new_ports_replace_the_old_ones,
            what_is_suspended_holds_nothing_but_its_name,
            a_resumed_rental_takes_nothing_from_others,
            a_container_leads_to_its_rental_for_ever,
            new_secrets_replace_the_old_ones,
            last_lines_outlive_the_container_for_their_time,
            events_fold_to_the_rental,
            the_journal_has_every_event_once_and_in_order,
            readers_miss_nothing_while_others_write,
            publications_at_once_leave_no_gap,
            lists_are_filtered_and_paged,
            lists_are_filtered_by_name_label_and_outcome,
            lists_are_what_their_filters_let_pass,
            ended_rentals_are_read_by_age_and_forgotten,
        );
    };
    (@clauses $block_on:expr, $make:expr; $($clause:ident),* $(,)?) => {
        $(
            #[test]
            fn $clause() {
                let make = $make;
                ($block_on)(async move {
                    let store = ::std::sync::Arc::new(make().await);
                    $crate::testing::store_suite::$clause(store).await;
                });
            }
        )*
    };
}

/// Makes the one test of a [`KeyStore`](crate::store::KeyStore): `key_suite!(BLOCK_ON, MAKE)`, as
/// [`store_suite!`](crate::store_suite).
#[macro_export]
macro_rules! key_suite {
    ($block_on:expr, $make:expr) => {
        $crate::store_suite!(@clauses $block_on, $make; keys_are_found_by_their_digest_until_revoked);
    };
}

/// Makes the tests of a [`RangeStore`](crate::store::RangeStore) that is a [`HostStore`](crate::store::HostStore) too:
/// `range_suite!(BLOCK_ON, MAKE)`, as [`store_suite!`](crate::store_suite).
#[macro_export]
macro_rules! range_suite {
    ($block_on:expr, $make:expr) => {
        $crate::store_suite!(@clauses $block_on, $make;
            a_range_stays_its_renters_until_it_is_given_back,
            many_renters_at_once_get_ranges_of_their_own,
            a_range_in_use_is_not_given_back,
        );
    };
}

/// Makes the one test of an [`AuditLog`](crate::store::AuditLog): `audit_suite!(BLOCK_ON, MAKE)`, as
/// [`store_suite!`](crate::store_suite).
#[macro_export]
macro_rules! audit_suite {
    ($block_on:expr, $make:expr) => {
        $crate::store_suite!(@clauses $block_on, $make; who_did_what_is_read_newest_first_and_bounded);
    };
}
