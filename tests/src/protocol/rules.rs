//! The safety steps of `repo/docs/concurrency.md`, each a switch: true is the protocol, false a mutant.

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Which safety steps are taken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(clippy::struct_excessive_bools, reason = "one switch for each step")]
        pub struct Rules {
            $($(#[$doc])* pub $name: bool,)*
        }

        impl Rules {
            /// The protocol as it stands.
            pub const PROTOCOL: Self = Self { $($name: true,)* };
            /// The names of all switches.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// The protocol without the named steps.
            ///
            /// # Panics
            /// When a name is none of [`Rules::NAMES`].
            pub fn without(names: &[&str]) -> Self {
                let mut rules = Self::PROTOCOL;
                for name in names {
                    assert!(Self::NAMES.contains(name), "no rule is called {name}");
                    $(rules.$name &= *name != stringify!($name);)*
                }
                rules
            }
        }
    };
}

rules! {
    /// W3: the lists are read after `open` is there.
    generations_after_open,
    /// W5: the parent's forget records are read after `open` is there; without: not again after the choice.
    parent_checked_after_open,
    /// W5: a parent whose forget is asked is refused, not only a Final one.
    asked_parent_is_refused,
    /// W7: a refused parent ends the session; without: the session takes another parent.
    refused_parent_ends_session,
    /// W3: all lists bar; without: only the newest.
    all_lists_bar,
    /// R3: bars hold from the reading of a list; without: from `seen` on.
    bars_before_seen,
    /// D2: hits are barred by lists; without: a hit counts if its pack is there at that moment.
    hits_are_barred,
    /// D3, C1: a slot counts when its pack is acknowledged.
    commit_after_packs,
    /// D5: rows are visible when their pack is acknowledged.
    rows_after_packs,
    /// D4: nodes come from the parent alone; without: from any snapshot, through the index.
    nodes_of_parent_only,
    /// R1: a raise reads every list it has skipped; without: only the newest.
    raise_reads_all_lists,
    /// R4: a raise decides hits in condemned packs again.
    raise_replaces,
    /// C2: the commit creates; without: it overwrites a Fence.
    commit_creates,
    /// A2: a successor fences the dead session.
    adoption_fences,
    /// A4: only packs are adopted; without: the slots of the dead session are taken over.
    adoption_takes_packs_only,
    /// F2, F3: Undone and Final are one write-once key; without: undo removes what it finds.
    settled_once,
    /// G1: packs are listed before sessions.
    packs_before_sessions,
    /// G2: forgets are listed before sessions.
    forgets_before_sessions,
    /// G1, G10: swept packs count as absent although they are still there.
    swept_is_absent,
    /// G5: parents of open sessions are roots.
    parents_are_roots,
    /// V2, G5, G10: parents of readers are roots.
    readers_are_roots,
    /// G5: a hint into an absent pack is resolved by chunk id.
    stale_hints_by_id,
    /// G5: what is missing is passed over where a Final root misses it of a swept pack, and else it is damage; without: it is passed
    /// over whatever the root.
    only_final_is_passed_over,
    /// G6: packs of open sessions are left alone.
    open_sessions_keep_packs,
    /// G6: packs of unknown sessions are left alone.
    unknown_sessions_keep_packs,
    /// G6: packs of sessions that an open one adopts are left alone.
    adopted_sessions_keep_packs,
    /// G7: copies are acknowledged before the list that relies on them is published.
    publish_after_copies,
    /// G8: a generation is published under the number next to the sealed one that the mark began with, or not at all.
    one_chain,
    /// G9: silent sessions are fenced; without: they are passed over.
    silent_are_fenced,
    /// G9: a session without any `seen` is waited for.
    unseen_are_waited_for,
    /// G9: the Fence is created; without: it overwrites a Snapshot.
    fence_creates,
    /// G10: there is a second mark.
    second_mark,
    /// G10: parents of open sessions are roots of the second mark too.
    second_mark_parents,
    /// G11: the last copy of a chunk whose hint is stale is rescued.
    last_copy_is_rescued,
    /// G12: the delete set is created; without: a late collector overwrites it.
    sealed_once,
    /// G13: exactly the delete set is deleted; without: all that the list condemned.
    delete_set_is_swept,
    /// G13: the record of a snapshot that is an open session's parent stays.
    parents_keep_records,
    /// N1: fences stay for ever.
    fences_stay,
    /// V1: a reader looks whether its snapshot is Final, after `open` is there.
    reader_checks,
    /// V4: a reader whose `open` was removed begins with V1 again; without: it makes it anew and reads on.
    cleared_reader_checks,
}
