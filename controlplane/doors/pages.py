"""Which role each page needs, by the name of its address. Runs in the web process.

A page that isn't among WRITES takes no form: a POST to it is answered with 405.
"""

from controlplane.models.access import Role

OPEN = frozenset({"login", "logout", "favicon"})
"""What a stranger may ask for."""

LOOKS = {
    Role.READ: """
        password bridge styleguide wall bridge-part navigation runs run-rows run-columns run-compare run-import
        run-new run-templates run-template run-sweeps run-sweep-new run-sweep-row run-sweep run run-about run-part
        models model-add active-place model datasets dataset-upload dataset-generators generations generation-new
        generation-of-job generation generation-dataset generation-became generation-review dataset dataset-preview
        chat conversation conversations votes collected collected-rows evaluations evaluation-new evaluation-compare
        leaderboard evaluation-of-job evaluation evaluation-examples evaluation-promotions run-evaluations queue
        jobs job-log chains inbox hosts host host-files host-upkeep host-details gpu sweeps sweep power power-cards
        alerts alerts-open alert-rules settings settings-values settings-storage settings-snapshots
        settings-snapshot
    """,
    Role.ADMIN: """
        usage usage-csv alert-routes alert-route settings-people settings-keys settings-key settings-audit
        settings-audit-seals settings-leftovers settings-doctor
    """,
}

WRITES = {
    Role.READ: """
        password first-steps-show run-beside run-preview
    """,
    Role.USE: """
        first-steps-model first-steps-data many run-many run-view-save run-view-delete run-new run-load
        run-save-template run-template run-template-delete run-make-template run-sweep-new run-sweep-pause
        run-sweep-resume run-sweep-stop run-sweep-delete run-about run-stop run-pause run-resume run-go-on
        run-delete run-keep run-discard run-register model-add model-delete export-add export-delete generation-new
        generation-make generation-accept generation-delete dataset-validate dataset-delete conversation-rename
        conversation-delete collected-remove collected-dataset evaluation-new evaluation-delete run-evaluate
        job-cancel job-retry job-priority job-move chain-reset chain-delete inbox-retry inbox-dismiss
        alert-acknowledge
    """,
    Role.ADMIN: """
        run-view-share model-activate model-reload deployment-stop engine-add model-roll-back model-serving
        split-put split-delete chat-serve evaluation-promote queue-pause queue-resume host-files-clear
        host-files-share transfer-cancel host-state host-edit gpu-state gpu-process-end gpu-power gpu-persistence
        sweeps sweep-cancel sweep-use power-profile power-persistence schedule-add schedule-switch schedule-delete
        power-rules power-guard alert-rule alert-routes alert-route alert-route-switch alert-route-test
        alert-route-delete settings-people person-change settings-keys settings-key key-revoke settings-values
        settings-look settings-clean settings-snapshots-take settings-snapshot-restore
    """,
}
