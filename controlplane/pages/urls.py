"""Addresses of pages. A model's name may hold slashes, so it stands last. Runs in the web process."""

from django.contrib.auth.decorators import login_not_required
from django.urls import path
from django.urls.resolvers import URLPattern, URLResolver

from controlplane.pages import account, bridge, chat, datasets, hosts, icon, models, queue, runs, settings

urlpatterns: list[URLPattern | URLResolver] = [
    path("favicon.ico", icon.favicon, name="favicon"),
    path("login", account.Login.as_view(), name="login"),
    path("logout", login_not_required(account.Logout.as_view()), name="logout"),
    path("password", account.password, name="password"),
    path("", bridge.bridge, name="bridge"),
    path("bridge/<slug:name>", bridge.part, name="bridge-part"),
    path("navigation", bridge.navigation, name="navigation"),
    path("runs/", runs.run_list, name="runs"),
    path("runs/new", runs.run_new, name="run-new"),
    path("runs/<int:run_id>/", runs.run_page, name="run"),
    path("runs/<int:run_id>/parts/<slug:name>", runs.run_part, name="run-part"),
    path("runs/<int:run_id>/stop", runs.run_stop, name="run-stop"),
    path("runs/<int:run_id>/pause", runs.run_pause, name="run-pause"),
    path("runs/<int:run_id>/resume", runs.run_resume, name="run-resume"),
    path("runs/<int:run_id>/delete", runs.run_delete, name="run-delete"),
    path("runs/<int:run_id>/checkpoints/<int:step>/register", runs.run_register, name="run-register"),
    path("models/", models.model_list, name="models"),
    path("models/add", models.model_add, name="model-add"),
    path("models/activate", models.model_activate, name="model-activate"),
    path("models/reload", models.model_reload, name="model-reload"),
    path("models/delete", models.model_delete, name="model-delete"),
    path("models/engines/<int:deployment_id>/stop", models.deployment_stop, name="deployment-stop"),
    path("models/at/<path:name>", models.model_page, name="model"),
    path("datasets/", datasets.dataset_list, name="datasets"),
    path("datasets/upload", datasets.dataset_upload, name="dataset-upload"),
    path("datasets/<int:dataset_id>/", datasets.dataset_page, name="dataset"),
    path("datasets/<int:dataset_id>/preview", datasets.dataset_preview, name="dataset-preview"),
    path("datasets/<int:dataset_id>/delete", datasets.dataset_delete, name="dataset-delete"),
    path("chat", chat.chat, name="chat"),
    path("queue/", queue.queue, name="queue"),
    path("queue/<int:job_id>/cancel", queue.job_cancel, name="job-cancel"),
    path("queue/<int:job_id>/retry", queue.job_retry, name="job-retry"),
    path("queue/<int:job_id>/priority", queue.job_priority, name="job-priority"),
    path("hosts/", hosts.host_list, name="hosts"),
    path("hosts/<str:name>/", hosts.host_page, name="host"),
    path("hosts/<str:name>/gpus/<int:index>", hosts.gpu, name="gpu"),
    path("hosts/<str:name>/gpus/<int:index>/power", hosts.gpu_power, name="gpu-power"),
    path("settings/", settings.account, name="settings"),
    path("settings/people", settings.people, name="settings-people"),
    path("settings/people/<int:user_id>", settings.person_change, name="person-change"),
    path("settings/keys", settings.keys, name="settings-keys"),
    path("settings/keys/<int:key_id>/revoke", settings.key_revoke, name="key-revoke"),
    path("settings/values", settings.values, name="settings-values"),
    path("settings/audit", settings.audit, name="settings-audit"),
]
