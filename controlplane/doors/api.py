"""Which role each call of the API needs, by its method and its path in the OpenAPI schema. Runs in the web process."""

from controlplane.models.access import Role

LOOKS = {
    Role.READ: """
        /api/health /api/info /api/version /api/gpu /api/system /api/logs/{component} /api/config /api/hosts
        /api/hosts/{name} /api/hosts/{name}/history /api/gpu/history /api/gpu/processes /api/hosts/{name}/files
        /api/transfers /api/transfers/{transfer_id} /api/models /api/models/active /api/models/engine
        /api/models/{model_id} /api/exports /api/exports/{export_id} /api/jobs /api/jobs/stats /api/jobs/{job_id}
        /api/jobs/{job_id}/waiting /api/jobs/{job_id}/log /api/jobs/{job_id}/log/download /api/queue /api/inbox
        /api/chains /api/chains/{name} /api/settings/power_profile /api/settings/power_schedules
        /api/settings/power_schedules/{schedule_id} /api/energy /api/power_sweeps /api/power_sweeps/{sweep_id}
        /api/uploads/{upload_id} /api/datasets /api/datasets/generators /api/datasets/{dataset_id}
        /api/datasets/{dataset_id}/preview /api/datasets/{dataset_id}/download /api/runs /api/runs/{run_id}
        /api/runs/{run_id}/checkpoints /api/runs/{run_id}/metrics /api/runs/{run_id}/metrics/keys
        /api/runs/{run_id}/metrics.csv /api/runs/{run_id}/metrics.tfevents /api/run-views /api/runs/compare
        /api/runs/compare/metrics /api/run-templates /api/run-templates/{template_id} /api/runs/{run_id}/diff
        /api/run-sweeps /api/run-sweeps/{sweep_id} /api/eval/jobs /api/eval/jobs/{job_id} /api/eval/promotions
        /api/eval/compare /api/eval/leaderboard /api/runs/{run_id}/evaluations /api/conversations
        /api/conversations/{conversation_id} /api/votes /api/votes.csv /api/collected /api/collected/rows
        /api/data_gen/jobs /api/data_gen/jobs/{job_id} /api/data_gen/jobs/{job_id}/examples /api/storage
        /api/storage/snapshots /api/storage/snapshots/{name} /api/alerts /api/alerts/rules /api/deployments
        /api/deployments/history /api/deployments/{deployment_id} /api/search /api/usage/speed /api/splits
        /v1/models /v1/models/{model_id} /api/v1/models /api/v1/models/{model_id}
    """,
    Role.USE: """
        /api/exports/{export_id}/download
    """,
    Role.ADMIN: """
        /api/doctor /api/storage/leftovers /api/alerts/routes /api/alerts/deliveries /api/audit/verification
        /api/audit/export.ndjson /api/audit/export.csv /api/keys /api/settings /api/audit /api/usage /api/usage.csv
    """,
}
"""Calls by GET."""

WRITES = {
    Role.READ: {
        "POST": """
            /api/runs/preview /api/runs/config /api/data_gen/jobs/{job_id}/examples/check
        """,
    },
    Role.USE: {
        "DELETE": """
            /api/models/{model_id} /api/exports/{export_id} /api/inbox/{file_id} /api/chains/{name}
            /api/uploads/{upload_id} /api/datasets/{dataset_id} /api/runs/{run_id} /api/runs/{run_id}/checkpoints/{step}
            /api/run-views/{view_id} /api/run-templates/{template_id} /api/run-sweeps/{sweep_id} /api/eval/jobs/{job_id}
            /api/conversations/{conversation_id} /api/collected/rows/{row_id} /api/data_gen/jobs/{job_id}
        """,
        "PATCH": """
            /api/runs/{run_id} /api/run-templates/{template_id} /api/conversations/{conversation_id}
            /api/data_gen/jobs/{job_id}/examples/{number}
        """,
        "POST": """
            /api/models/register /api/exports /api/generate /api/jobs/{job_id}/cancel /api/jobs/{job_id}/retry
            /api/jobs/{job_id}/priority /api/many/{noun} /api/jobs/{job_id}/move /api/inbox/{file_id}/retry
            /api/chains/{name}/reset /api/uploads /api/uploads/{upload_id}/complete /api/datasets /api/datasets/sample
            /api/datasets/{dataset_id}/validate /api/runs/estimate /api/runs/external /api/runs/import
            /api/runs/{run_id}/finish /api/runs /api/runs/{run_id}/stop /api/runs/{run_id}/pause
            /api/runs/{run_id}/resume /api/runs/{run_id}/go-on /api/runs/{run_id}/checkpoints/{step}/register
            /api/runs/{run_id}/checkpoints/{step}/keep /api/runs/{run_id}/metrics /api/runs/many /api/run-views
            /api/run-templates /api/run-sweeps /api/run-sweeps/{sweep_id}/pause /api/run-sweeps/{sweep_id}/resume
            /api/run-sweeps/{sweep_id}/stop /api/eval/jobs /api/runs/{run_id}/evaluations /api/conversations
            /api/conversations/{conversation_id}/turns /api/conversations/{conversation_id}/answers
            /api/conversations/{conversation_id}/votes /api/collected /api/collected/dataset /api/data_gen/jobs
            /api/data_gen/jobs/{job_id}/examples/accept /api/data_gen/jobs/{job_id}/dataset
            /api/alerts/{alert_id}/acknowledge /v1/chat/completions /v1/completions /api/v1/chat/completions
            /api/v1/completions
        """,
        "PUT": """
            /api/uploads/{upload_id}/parts/{number}
        """,
    },
    Role.ADMIN: {
        "DELETE": """
            /api/hosts/{name}/files /api/settings/power_schedules/{schedule_id} /api/alerts/routes/{route_id}
            /api/keys/{key_id} /api/splits/{name}
        """,
        "PATCH": """
            /api/hosts/{name} /api/models/{model_id} /api/settings/power_schedules/{schedule_id}
            /api/run-views/{view_id} /api/alerts/rules/{key} /api/alerts/routes/{route_id}
        """,
        "POST": """
            /api/gpu/processes/end /api/transfers/{transfer_id}/cancel /api/models/set_active /api/models/reload
            /api/queue/pause /api/queue/resume /api/settings/power_profile /api/settings/persistence_mode
            /api/settings/power_schedules /api/power_sweeps /api/power_sweeps/{sweep_id}/cancel
            /api/power_sweeps/{sweep_id}/use /api/eval/jobs/{job_id}/promote /api/storage/clean /api/storage/snapshots
            /api/storage/snapshots/{name}/restore /api/alerts/routes /api/alerts/routes/{route_id}/test /api/keys
            /api/deployments /api/deployments/rollback /api/deployments/{deployment_id}/stop
        """,
        "PUT": """
            /api/hosts/{name}/state /api/hosts/{name}/gpus/{index}/state /api/hosts/{name}/files/shared
            /api/keys/{key_id}/limits /api/settings/{key} /api/splits/{name}
        """,
    },
}
