"""The chat as a person uses it, in Chromium."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from tests.server.page.conftest import opened

pytestmark = pytest.mark.peer

HELLO = "Hello, who are you?"
API = "**/v1/chat/completions"


def ask(page, text: str) -> None:
    page.fill("#question", text)
    page.keyboard.press("Enter")


def answered(page, text: str) -> str:
    """Ask, and wait for the whole answer."""
    ask(page, text)
    page.wait_for_selector(".assistant:last-child:not(.live)")
    return page.inner_text(".assistant:last-child .body")


def kept(page) -> list[dict]:
    return json.loads(page.evaluate("localStorage.getItem('localllm.conversation')") or "[]")


def set_to(page, **values: object) -> None:
    page.click("#open-settings")
    for name, value in values.items():
        page.fill(f"[name={name}]", str(value))
    page.click("#settings-form .primary")


def stand_in(page, *deltas: dict, end: str = "data: [DONE]\n\n") -> list[dict]:
    """Let the server's answers be these; returns the list that requests are noted in."""
    asked = []
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end

    def answer(route):
        asked.append(route.request.post_data_json)
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route(API, answer)
    return asked


def test_an_answer_is_the_apis_own(page, server):
    set_to(page, temperature=0, max_tokens=24)
    shown = answered(page, HELLO)
    body = {"messages": [{"role": "user", "content": HELLO}], "temperature": 0, "max_tokens": 24}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body).json()
    expected = answer["choices"][0]["message"]["content"]
    assert shown == expected == kept(page)[1]["content"]
    note = page.inner_text(".assistant .note")
    assert re.search(rf"\b{answer['usage']['completion_tokens']} out · \S+ tokens/s", note)
    assert page.inner_text("#used").startswith(f"{answer['usage']['total_tokens']} of 512")


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_stop_ends_the_answer_here_and_on_the_server(page, server, slow, way):
    ask(page, "Tell me a long story about the sea.")
    page.wait_for_function("() => document.querySelector('.live .body')?.innerText.length > 3")
    assert server.engine.busy  # it is shown while it is made
    page.keyboard.press("Escape") if way == "Escape" else page.click("#stop")
    page.wait_for_selector(".assistant:not(.live)")
    server.require_idle()
    assert page.inner_text(".assistant .note") == "Stopped"
    assert kept(page)[1]["content"]
    assert page.is_visible("#send")


def test_a_page_that_is_closed_frees_the_server(page, server, slow):
    ask(page, "Tell me a long story about the sea.")
    page.wait_for_selector(".live .body p")
    page.goto("about:blank")
    server.require_idle()


def test_a_key_is_asked_for_until_one_fits(context, locked):
    page = context.new_page()
    page.goto(locked.url)
    for key, reason in [("wrong", "asks for"), ("second-key", "did not accept")]:
        page.wait_for_function(
            "text => document.querySelector('#key[open] #key-reason')?.innerText.includes(text)",
            arg=reason,
        )
        page.fill("#key-input", key)
        page.keyboard.press("Enter")
    page.wait_for_selector("#question[placeholder='Ask tiny-chat']")
    assert not page.is_visible("#key")
    assert answered(page, HELLO)
    assert "second-key" in page.evaluate("JSON.stringify(sessionStorage)")
    assert "second-key" not in page.evaluate("JSON.stringify(localStorage)")
    page.reload()
    page.wait_for_selector("#question[placeholder='Ask tiny-chat']")  # not asked again


def test_without_a_key_the_page_says_so(context, locked):
    page = context.new_page()
    page.goto(locked.url)
    page.click("#key-cancel")
    assert "asks for an API key" in page.inner_text("#problem")
    page.fill("#question", HELLO)
    assert page.is_disabled("#send")  # no model is known yet
    page.click("#problem button")
    assert page.is_visible("#key")


def test_a_chat_that_does_not_fit_names_both_numbers(page):
    ask(page, "word " * 2000)
    page.wait_for_selector("#problem p")
    line = page.inner_text("#problem span")
    assert re.search(r"\d{4} tokens", line)
    assert "512" in line
    assert "\n" not in line
    assert len(kept(page)) == 1  # the question can be edited


@pytest.mark.parametrize(
    ("status", "headers", "error", "line"),
    [
        (
            503,
            {"Retry-After": "7"},
            {"message": "the queue is full"},
            "queue is full. Try again in 7 s",
        ),
        (400, {}, {"message": "top_k: no"}, "top_k: no"),
        (500, {}, None, "the server answered 500"),
        (0, {}, None, "connection to the server was lost"),
    ],
)
def test_a_failure_is_one_line_and_can_be_tried_again(page, status, headers, error, line):
    def fail(route):
        if not status:
            return route.abort()
        body = "<html>" if error is None else json.dumps({"error": error})
        return route.fulfill(status=status, headers=headers, body=body)

    page.route(API, fail)
    ask(page, HELLO)
    page.wait_for_selector("#problem p")
    assert line in page.inner_text("#problem span")
    page.unroute(API)
    page.click("#problem button")
    page.wait_for_selector(".assistant:not(.live) .note")
    assert page.inner_text("#problem") == ""
    assert [message["role"] for message in kept(page)] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("end", "line"),
    [
        ("", "connection to the server was lost"),
        ('data: {"error": {"message": "out of luck"}}\n\n', "out of luck"),
    ],
)
def test_an_answer_that_breaks_off_is_kept(page, end, line):
    stand_in(page, {"content": "Half an "}, end=end)
    assert answered(page, HELLO).strip() == "Half an"
    assert line in page.inner_text("#problem span")
    assert page.inner_text(".assistant .note") == "Broken off"


def test_reload_keeps_everything_and_new_chat_forgets_it(context, page, server):
    set_to(page, system="Be brief.", temperature=0, top_p=7)
    assert page.is_visible("#settings")  # 7 cannot be: the browser says why
    page.keyboard.press("Escape")
    asked = stand_in(page, {"content": "**Yes**, `I` am."})
    answered(page, HELLO)
    assert asked[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert asked[0]["temperature"] == 0
    assert "top_p" not in asked[0]
    before = page.inner_html(".assistant .body")
    with opened(context, server.url) as again:
        assert again.inner_text(".user .body") == HELLO
        assert again.inner_html(".assistant .body") == before
        assert again.input_value("[name=system]") == "Be brief."
        again.click("#new")
        assert again.is_visible("#welcome")
        assert kept(again) == []
    page.reload()
    assert page.locator("article").count() == 0


def test_regenerate_and_edit_replace_what_was_there(page):
    asked = stand_in(page, {"content": "First"})
    answered(page, "One")
    answered(page, "Two")
    turns = ["user", "assistant", "user"]
    page.click("text=Regenerate")
    page.wait_for_selector("text=Regenerate")
    assert asked[2] == asked[1]
    assert [message["role"] for message in asked[2]["messages"]] == turns
    page.fill("#question", "a draft")
    page.click("text=Edit >> visible=true")
    assert page.input_value("#question") == "Two"
    page.keyboard.press("Escape")
    assert page.input_value("#question") == "a draft"
    page.click("text=Edit >> visible=true")
    answered(page, "Three")
    assert [message["content"] for message in asked[3]["messages"]] == ["One", "First", "Three"]
    assert [message["content"] for message in kept(page)] == ["One", "First", "Three", "First"]


def test_a_question_without_an_answer_is_not_sent_with_the_next(page):
    page.route(API, lambda route: route.abort())
    ask(page, "Lost")
    page.wait_for_selector("#problem p")
    page.unroute(API)
    asked = stand_in(page, {"content": "Yes"})
    answered(page, "Found")
    assert [message["content"] for message in asked[0]["messages"]] == ["Found"]


def test_thoughts_are_folded_away(page):
    stand_in(page, {"reasoning_content": "Hm, "}, {"reasoning_content": "so."}, {"content": "Yes."})
    assert answered(page, HELLO) == "Yes."
    assert not page.is_visible(".thoughts")
    page.click("summary")
    assert page.inner_text(".thoughts") == "Hm, so."
    assert kept(page)[1]["reasoning"] == "Hm, so."


def test_copy_and_export(context, page):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    stand_in(page, {"content": "Look:\n\n```c\nint *x;\n```\n<b>"})
    answered(page, HELLO)
    for button, text in [
        (".code .text", "int *x;"),
        (".assistant .foot .text", "Look:\n\n```c\nint *x;\n```\n<b>"),
    ]:
        page.click(button)
        page.wait_for_function(
            "text => navigator.clipboard.readText().then(t => t === text)", arg=text
        )
    with page.expect_download() as download:
        page.click("#export")
    document = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert document["model"] == "tiny-chat"
    assert document["messages"][0]["content"] == HELLO


def test_keys_of_the_keyboard(page):
    asked = stand_in(page, {"content": "Yes"})
    page.keyboard.type("one")  # the field has the focus from the start
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    page.wait_for_selector(".assistant:not(.live)")
    assert asked[0]["messages"][0]["content"] == "one\ntwo"
    page.keyboard.press("Enter")  # there is nothing to send
    assert len(asked) == 1


@pytest.mark.parametrize("width", [360, 1600])
def test_it_fits_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 640})
    stand_in(
        page,
        {"content": "`" + "x" * 300 + "`\n\n```\n" + "y" * 300 + "\n```\n|a|\n|-|\n|" + "z" * 300},
    )
    answered(page, "w" * 300)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.querySelector('#scroll').scrollWidth") <= width
    for name in ("#send", "#new", "#open-settings"):
        box = page.locator(name).bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width


def test_everything_that_can_be_used_has_a_name(page):
    stand_in(page, {"reasoning_content": "Hm."}, {"content": "Yes"})
    answered(page, HELLO)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, summary")].filter(
          (one) => !one.ariaLabel && !one.innerText.trim() && !one.textContent.trim()
            && ![...(one.labels ?? [])].some((label) => label.textContent.trim())
        ).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.get_attribute("#log", "aria-live") == "polite"
    assert page.get_attribute("#problem", "role") == "alert"
