"""All addresses. Runs in the web process."""

from controlplane.api.urls import urlpatterns as api
from controlplane.pages.urls import urlpatterns as pages

urlpatterns = [*api, *pages]
handler500 = "controlplane.pages.broken.broke"
