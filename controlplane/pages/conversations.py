"""What is kept of chats: the person's conversations, votes, collected rows. Runs in the web process."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_POST

from controlplane.errors import InvalidInputError
from controlplane.pages.actors import actor
from controlplane.pages.tables import shown
from controlplane.row_ids import row_id
from controlplane.services import collected, conversations, settings, votes
from controlplane.services.tables import conversations as asked

ROWS_A_PAGE = 20
EVAL_FRACTION = 0.05


def conversation_list(request: HttpRequest) -> HttpResponse:
    """The person's own that the address asks for."""
    table = shown(request.GET, asked.ask(actor(request), request.GET), "conversations", placeholder="Search titles")
    context = {
        "tab": "conversations", "table": table, "rows": conversations.with_questions(table.page.rows),
        "keep_days": settings.get("chat.keep_days"),
    }  # fmt: skip
    template = "chat/conversation_rows.html" if request.headers.get("HX-Request") else "chat/conversations.html"
    return render(request, template, context)


@require_POST
def conversation_rename(request: HttpRequest, conversation_id: int) -> HttpResponse:
    """Gives one another title."""
    conversations.change(actor(request), conversation_id, title=request.POST.get("title", ""))
    return redirect("conversations")


@require_POST
def conversation_delete(request: HttpRequest, conversation_id: int) -> HttpResponse:
    """Takes one away."""
    conversations.delete(actor(request), conversation_id)
    messages.success(request, "The conversation is deleted.")
    return redirect("conversations")


def vote_list(request: HttpRequest) -> HttpResponse:
    """Wins by pair of models."""
    blind = request.GET.get("blind") == "yes"
    pairs = votes.pairs(blind_only=blind)
    return render(request, "chat/votes.html", {"tab": "votes", "pairs": pairs, "blind": blind})


def collected_list(request: HttpRequest) -> HttpResponse:
    """The person's sets."""
    return render(request, "chat/collected.html", {"tab": "collected", "sets": collected.list_sets(actor(request))})


def collected_rows(request: HttpRequest) -> HttpResponse:
    """The rows of one set, and the form that makes a dataset of them."""
    name = request.GET.get("set", "").replace("\0", "")
    who = actor(request)
    known = {item["name"]: item["rows"] for item in collected.list_sets(who)}
    offset = row_id(request.GET.get("offset", "")) or 0
    rows = collected.rows_of(who, name, offset, ROWS_A_PAGE)
    total, last = known.get(name, 0), offset + len(rows)
    context = {
        "tab": "collected", "name": name, "rows": rows, "hidden": collected.hidden(rows),
        "total": total, "first": offset + 1, "last": last,
        "before": max(0, offset - ROWS_A_PAGE) if offset else None, "after": last if last < total else None,
    }  # fmt: skip
    return render(request, "chat/collected_rows.html", context)


def _rows_url(name: str) -> str:
    return f"{reverse('collected-rows')}?{urlencode({'set': name})}"


@require_POST
def collected_remove(request: HttpRequest, row: int) -> HttpResponse:
    """Takes a row out of its set."""
    who = actor(request)
    name = collected.remove(who, row)
    is_left = any(item["name"] == name for item in collected.list_sets(who))
    return redirect(_rows_url(name) if is_left else "collected")


@require_POST
def collected_dataset(request: HttpRequest) -> HttpResponse:
    """Makes a dataset of a set; its page follows the check."""
    name = request.POST.get("set", "")
    try:
        fraction = float(request.POST.get("eval_fraction") or EVAL_FRACTION)
    except ValueError:
        raise InvalidInputError("Held out is a share of the rows: a number from 0 to 0.5.") from None
    dataset, is_new = collected.make_dataset(actor(request), name, request.POST.get("name", ""), fraction)
    if not is_new:
        messages.info(request, f"These very rows are the dataset {dataset} already.")
    return redirect("dataset", dataset_id=dataset.pk)
