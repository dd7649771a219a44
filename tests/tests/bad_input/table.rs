//! Which test shows which row of the list of bad input. What another suite shows with the real executable is named here
//! and not written again.

use std::fs;
use std::path::Path;

/// A row, and the tests that show it: file below `tests/tests` (or of the workspace), `::`, name.
const ROWS: &[(&str, &[&str])] = &[
    (
        "wrong password or key, or none",
        &[
            "bad_input/access.rs::a_wrong_password_or_key_is_12_for_every_command_and_harms_nothing",
            "bad_input/access.rs::without_credential_and_terminal_every_command_is_12_and_says_how_to_give_one",
            "bad_input/s3.rs::wrong_credentials_and_places_are_told_at_once",
            "cli/keys.rs::every_source_of_a_password",
            "cli/keys.rs::secrets_are_in_no_stream",
        ],
    ),
    (
        "no repository",
        &[
            "bad_input/access.rs::no_repository_is_10_for_every_command_and_none_is_made",
            "cli.rs::no_repository_is_10_and_comes_before_the_password",
        ],
    ),
    (
        "a half-made repository",
        &[
            "bad_input/access.rs::an_init_that_was_killed_at_any_object_is_finished_by_the_next",
            "cli.rs::a_half_made_repository_is_finished",
        ],
    ),
    (
        "newer format or feature",
        &[
            "bad_input/access.rs::a_newer_format_is_15_and_nothing_is_written",
            "bad_input/access.rs::features_that_are_not_known_keep_from_reading_writing_or_only_collecting",
        ],
    ),
    (
        "config, key slot, pack, map node, snapshot, index cut or flipped",
        &[
            "bad_input/damage.rs::every_kind_of_object_cut_or_flipped_is_13_or_goes_on_and_no_wrong_byte_comes_out",
            "bad_input/damage.rs::a_backup_beside_damage_is_whole_and_does_not_build_on_it",
            "bad_input/damage.rs::an_object_of_a_wild_length_and_a_pipe_in_place_of_one_are_damage",
            "bad_input/noted.rs::noted_damage_is_looked_at_by_every_check_until_it_is_gone",
            "bad_input/noted.rs::a_damaged_newest_configuration_keeps_from_writing_until_repair_and_from_nothing_else",
            "trees/damaged.rs::a_damaged_chunk_takes_its_files_and_no_others_and_the_rest_comes_when_it_is_there_again",
            "trees/damaged.rs::what_is_in_the_target_stays_where_the_snapshot_has_lost_it",
            "trees/damaged.rs::a_damaged_part_of_the_tree_takes_what_is_below_it_and_nothing_else",
            "cli/check.rs::a_damaged_chunk_is_13_when_it_is_read_and_its_range_is_what_cannot_be_read",
            "cli/check.rs::a_damaged_snapshot_is_13_also_when_it_is_asked_for_by_its_id",
            "mount.rs::a_damaged_chunk_is_unreadable_and_all_others_are_not",
            "collect/unreadable.rs::nothing_is_condemned_while_a_list_cannot_be_read",
            "collect/unreadable.rs::a_thin_pack_that_does_not_open_makes_one_copy_of_the_other",
            "damage.rs::a_flip_in_any_object_is_found_and_named_with_all_it_hits",
            "damage.rs::a_cut_in_any_object_is_found_and_named_with_all_it_hits",
        ],
    ),
    (
        "all key slots, repo.json or a pinned snapshot's record gone",
        &[
            "bad_input/noted.rs::a_lost_way_in_is_damage_and_named",
            "bad_input/noted.rs::a_lost_record_of_a_pinned_snapshot_is_damage",
        ],
    ),
    (
        "latest beside a damaged record",
        &["bad_input/damage.rs::latest_beside_a_record_that_cannot_be_read_is_13_wherever_it_is_said"],
    ),
    (
        "missing pack",
        &[
            "bad_input/damage.rs::a_missing_pack_is_13_for_check_which_names_what_is_hit_and_for_restore",
            "cli/check.rs::a_missing_pack_is_13_and_the_same_with_and_without_the_cache",
            "damage.rs::the_next_backup_stores_anew_what_is_missing",
        ],
    ),
    (
        "full disk in storage, in the cache, under a target",
        &[
            "bad_input/room.rs::a_full_disk_under_the_repository_says_how_much_is_missing_and_with_room_the_same_command_succeeds",
            "bad_input/room.rs::garbage_is_collected_on_a_disk_that_is_wholly_full",
            "bad_input/room.rs::what_has_no_room_to_be_sealed_anew_at_once_is_so_by_several_runs",
            "bad_input/room.rs::an_init_on_a_full_disk_says_so_and_with_room_the_same_command_succeeds",
            "bad_input/room.rs::a_full_disk_under_the_cache_is_a_warning_that_says_how_much_is_missing",
            "bad_input/room.rs::a_full_disk_under_the_target_is_an_error_and_with_room_the_same_command_goes_on",
            "cli.rs::a_full_disk_behind_standard_output_is_an_error",
        ],
    ),
    (
        "storage that answers 403, 404, 409, 412, 429, 500, 503, 507, stalls, or drops connections mid-body",
        &[
            "bad_input/s3.rs::what_passes_is_tried_again_and_nothing_is_doubled",
            "bad_input/s3.rs::stalls_are_noticed_and_tried_again",
            "bad_input/s3.rs::an_ingress_that_knows_no_way_is_no_storage_without_the_object",
            "bad_input/s3.rs::what_stays_ends_in_bounded_time_with_a_clear_error",
            "bad_input/s3.rs::a_mount_whose_storage_fails_answers_with_an_error_and_goes_on_when_it_is_back",
            "storage/faults.rs::a_create_survives_what_passes_and_is_never_doubled",
        ],
    ),
    (
        "few threads, or none",
        &["bad_input/room.rs::with_few_threads_a_command_does_its_work_or_says_so_and_leaves_nothing_open"],
    ),
    (
        "kill -9 at log-uniform times",
        &[
            "bad_input/unplugged.rs::a_backup_to_s3_killed_at_any_time_loses_nothing_acknowledged",
            "kill.rs::a_killed_backup_loses_nothing_acknowledged",
            "kill.rs::a_killed_restore_goes_on",
            "mount.rs::a_killed_mount_is_removed_by_the_next_one",
        ],
    ),
    (
        "unplugged server",
        &[
            "bad_input/unplugged.rs::a_server_that_is_gone_ends_the_command_and_when_it_is_back_the_same_command_goes_on",
        ],
    ),
    (
        "resume after a kill at half",
        &[
            "bad_input/unplugged.rs::what_a_killed_run_stored_on_s3_is_not_sent_again",
            "kill.rs::what_a_killed_run_stored_is_not_sent_again",
        ],
    ),
    (
        "clock jumps",
        &[
            "bad_input/clock.rs::backups_go_on_whatever_the_clock_shows",
            "bad_input/clock.rs::a_run_is_not_taken_for_dead_by_the_clock_of_another_host",
            "bad_input/clock.rs::a_forget_can_be_taken_back_whatever_the_clock_shows",
        ],
    ),
    (
        "target smaller, mounted, busy, read-only, not empty, no disk",
        &[
            "bad_input/targets.rs::devices_that_are_small_mounted_held_or_read_only_are_refused_whatever_is_forced",
            "bad_input/targets.rs::a_device_that_others_are_built_on_is_refused_whatever_is_forced",
            "bad_input/targets.rs::what_is_not_empty_is_refused_until_it_is_forced",
            "bad_input/targets.rs::what_is_no_disk_is_refused",
            "bad_input/targets.rs::a_file_that_may_not_be_written_is_refused",
            "bad_input/targets.rs::a_device_that_fails_on_the_way_ends_the_restore_with_the_place",
            "mount.rs::what_cannot_be_mounted_is_refused_with_the_right_code",
            "restore/refusals.rs::another_loop_device_over_the_same_bytes_keeps_a_device_busy",
            "../../daemon/block/tests/targets.rs::a_disk_with_a_mounted_partition_is_busy",
            "../../daemon/block/tests/targets.rs::what_shows_the_same_bytes_is_busy_together_whatever_became_of_the_file",
            "../../daemon/block/tests/targets.rs::a_device_in_use_as_swap_is_busy",
        ],
    ),
    (
        "source that is no disk, missing, unreadable, shrinking, growing, failing",
        &[
            "bad_input/sources.rs::what_is_no_disk_or_not_there_is_refused",
            "bad_input/sources.rs::a_source_that_may_not_be_read_is_named",
            "bad_input/sources.rs::a_source_that_shrinks_or_grows_leaves_no_snapshot",
            "bad_input/sources.rs::a_source_that_cannot_be_read_in_places_leaves_no_snapshot",
            "cli/stream.rs::a_stream_that_is_not_as_long_as_was_said_leaves_no_snapshot",
            "cli/stream.rs::a_stream_that_is_shorter_than_the_snapshot_before_is_told",
            "../../daemon/block/tests/reading.rs::a_device_that_changes_its_size_ends_the_reading",
        ],
    ),
    (
        "volume names with odd characters",
        &[
            "bad_input/names.rs::odd_names_of_volumes_work_and_are_in_no_key",
            "bad_input/names.rs::names_that_no_volume_can_have_are_2_and_nothing_is_written",
        ],
    ),
    (
        "a pinned snapshot that is to be forgotten, a forgotten one that is to be pinned, one that is not there",
        &[
            "cli/pins.rs::a_pinned_snapshot_stays_whatever_is_forgotten_until_it_is_unpinned",
            "cli/pins.rs::what_cannot_be_pinned_is_refused_and_nothing_is_written",
        ],
    ),
    (
        "a forget, what became of it, a pin or its end that is damaged",
        &[
            "cli/settled.rs::a_verdict_that_is_damaged_when_the_record_is_gone_is_given_up_by_its_id",
            "cli/settled.rs::a_damaged_forget_that_was_settled_is_no_damage",
            "cli/settled.rs::a_damaged_forget_that_is_not_settled_is_named_until_it_is",
            "cli/pins.rs::check_names_a_pin_that_is_damaged_and_the_snapshot_stays_pinned",
            "cli/pins.rs::the_end_of_a_pin_that_is_damaged_has_a_way_out",
        ],
    ),
    (
        "keys to be rotated of which some are not given; a repair of what is lost for good",
        &[
            "cli/upkeep.rs::rotated_keys_open_old_and_new_with_every_slot",
            "cli/upkeep.rs::a_repair_makes_the_index_again_and_no_damage_look_mended",
            "cli/upkeep.rs::who_may_not_write_repairs_and_upgrades_nothing",
        ],
    ),
    (
        "a second repository that is the first, that is none, or that its key does not open; a damaged original",
        &[
            "cli/copy.rs::what_cannot_be_copied_is_refused_before_anything_is_written",
            "cli/copy.rs::a_damaged_snapshot_is_not_copied_and_all_others_are",
            "cli/heal.rs::what_is_refused",
        ],
    ),
    (
        "a second repository that lost data is taken from, and that lacks some of it, is damaged itself, or has another content",
        &[
            "cli/heal.rs::what_is_in_neither_is_named_with_where_it_was",
            "damage/heal.rs::where_both_are_damaged_what_is_intact_in_either_comes_together",
            "damage/heal.rs::a_disk_of_the_same_name_and_size_with_another_content_gives_nothing",
        ],
    ),
    (
        "ambiguous prefixes",
        &["bad_input/names.rs::snapshots_are_never_guessed", "cli.rs::snapshots_are_named_without_guessing"],
    ),
    (
        "S3 server without create-if-absent",
        &["bad_input/s3.rs::a_server_without_create_if_absent_is_refused_unless_there_is_one_writer"],
    ),
    (
        "S3 server with a certificate that nobody vouches for, file of authorities that is none",
        &[
            "bad_input/tls.rs::a_certificate_is_trusted_by_its_authority_or_not_at_all",
            "bad_input/tls.rs::a_file_of_authorities_that_is_none_is_2_and_named",
        ],
    ),
    (
        "local store on a filesystem without hard links",
        &[
            "bad_input/room.rs::a_filesystem_without_links_is_refused_unless_there_is_one_writer",
            "storage/filesystems.rs::without_links_one_writer_at_a_time_works_and_many_are_refused",
        ],
    ),
    (
        "settings that make no sense, in flags, files and the environment",
        &[
            "bad_input/settings.rs::sizes_times_and_shares_that_make_no_sense_are_2",
            "bad_input/settings.rs::places_that_are_no_repository_are_said_to_be_none",
            "bad_input/settings.rs::a_configuration_file_that_makes_no_sense_is_2_and_named",
            "bad_input/settings.rs::a_configuration_file_or_key_that_may_not_be_read_is_named",
            "bad_input/settings.rs::an_environment_full_of_junk_is_refused_or_ignored_but_never_misread",
            "cli.rs::wrong_usage_is_one_line_and_code_2",
            "cli.rs::unknown_keys_of_the_configuration_are_named_with_their_file",
            "cli/keys.rs::a_file_that_others_may_read_is_warned_of",
        ],
    ),
    (
        "SIGINT once and twice, SIGTERM",
        &[
            "bad_input/signals.rs::a_restore_ends_cleanly_at_the_first_signal_and_at_once_at_the_second",
            "bad_input/signals.rs::a_backup_to_s3_ends_cleanly_at_the_first_signal_and_at_once_at_the_second",
            "bad_input/signals.rs::a_mount_ends_at_either_signal_and_leaves_nothing_mounted",
            "cli/signals.rs::the_first_signal_ends_cleanly_and_says_how_to_go_on",
            "cli/signals.rs::the_second_signal_ends_at_once",
            "mount/ends.rs::a_signal_unmounts",
        ],
    ),
    (
        "standard streams that are closed",
        &[
            "bad_input/settings.rs::closed_streams_are_no_error_and_no_panic",
            "bad_input/settings.rs::a_standard_input_that_ends_early_is_backed_up_as_far_as_it_came",
            "cli.rs::a_reader_that_goes_away_is_no_error",
        ],
    ),
];

#[test]
fn every_row_names_tests_that_exist_and_every_test_of_this_suite_is_in_a_row() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let tests_of = |file: &str| -> Vec<String> {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let after = text.split("#[test]\n").skip(1);
        let names =
            after.filter_map(|rest| rest.split_once("fn ")?.1.split_once('(').map(|(name, _)| name.trim().to_owned()));
        names.collect()
    };
    let mut named = Vec::new();
    for (row, tests) in ROWS {
        assert!(!tests.is_empty(), "{row}: no test shows it");
        for test in *tests {
            let (file, name) = test.split_once("::").unwrap();
            assert!(tests_of(file).iter().any(|found| found == name), "{row}: there is no test {test}");
            named.push(*test);
        }
    }
    for entry in fs::read_dir(folder.join("bad_input")).unwrap() {
        let file = format!("bad_input/{}", entry.unwrap().file_name().to_str().unwrap());
        for test in tests_of(&file).iter().map(|name| format!("{file}::{name}")) {
            assert!(file.ends_with("table.rs") || named.contains(&test.as_str()), "{test} is in no row");
        }
    }
}
