"""Adding and subtracting: questions, answers and the written method as a thought."""

from __future__ import annotations

from source import Chat, Source, assistant, user, vary

SUM_QUESTIONS = [
    "What is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} =", "{a}+{b}=?", "Add {a} and {b}.",
    "What is {a} plus {b}?", "Calculate {a} + {b}.", "How much is {a} plus {b}?",
    "What's {a} + {b}?", "Compute {a} + {b}", "What is the sum of {a} and {b}?",
    "Please add {a} and {b}.", "Can you tell me what {a} + {b} is?", "{a} plus {b}",
    "Sum of {a} and {b}?", "Work out {a} + {b}.", "Tell me {a} plus {b}.", "How much is {a}+{b}?",
    "I have {a} coins and get {b} more. How many coins do I have?", "Solve {a} + {b}.",
    "Could you add {a} and {b} for me?", "What do {a} and {b} make together?", "What is {a}+{b}?",
]  # fmt: skip
DIFFERENCE_QUESTIONS = [
    "What is {a} - {b}?", "{a} - {b}", "{a}-{b}", "{a} - {b} =", "{a}-{b}=?",
    "Subtract {b} from {a}.", "What is {a} minus {b}?", "Calculate {a} - {b}.",
    "How much is {a} minus {b}?", "What's {a} - {b}?", "Compute {a} - {b}", "{a} minus {b}",
    "What is the difference {a} - {b}?", "Please subtract {b} from {a}.", "What is {a}-{b}?",
    "Can you tell me what {a} - {b} is?", "Work out {a} - {b}.", "Tell me {a} minus {b}.",
    "Take {b} away from {a}.", "How much is {a}-{b}?", "Solve {a} - {b}.",
    "Could you subtract {b} from {a} for me?", "What is left when you take {b} from {a}?",
]  # fmt: skip


def sum_problem(source: Source) -> tuple[str, str]:
    """A question and its answer: 'Add 17 and 35.', '17 + 35 = 40 + 12 = 52'."""
    a, b, sign, question = draw_sum(source)
    return question, worked(a, b, sign)


def draw_sum(source: Source) -> tuple[int, int, str, str]:
    """Two numbers, their sign and a question for them."""
    sign = source.choice(["+", "-"])
    a, b = source.pair(sign)
    questions = SUM_QUESTIONS if sign == "+" else DIFFERENCE_QUESTIONS
    return a, b, sign, source.choice(questions).format(a=a, b=b)


def signed(a: int, sign: str, b: int) -> int:
    """a + b or a - b."""
    return a + b if sign == "+" else a - b


def worked(a: int, b: int, sign: str) -> str:
    """The sum, tens and ones apart, and the result: '52 - 17 = 40 - 5 = 35'.

    The step between lets so small a network learn the carry from few examples.
    """
    tens = signed(a // 10, sign, b // 10) * 10
    ones = signed(a % 10, sign, b % 10)
    between = f"{tens} {'-' if ones < 0 else '+'} {abs(ones)}"
    return f"{a} {sign} {b} = {between} = {signed(a, sign, b)}"


def arithmetic_turn(source: Source) -> list[dict]:
    """One question and its answer; now and then several sums, one per line."""
    if source.chance(0.25):
        drawn = [draw_sum(source)[:3] for _ in range(source.rng.randint(2, 6))]
        asked = "\n".join(f"{a} {sign} {b}" for a, b, sign in drawn)
        return [user(asked), assistant("\n".join(worked(*values) for values in drawn))]
    question, answer = sum_problem(source)
    return [user(vary(source, question)), assistant(answer)]


def arithmetic(source: Source) -> Chat:
    """One to seven sums."""
    turns = 1 if source.chance(0.3) else source.rng.randint(2, 7)
    return Chat([m for _ in range(turns) for m in arithmetic_turn(source)])


def sum_steps(a: int, b: int, sign: str) -> str:
    """The written method, ones and then tens."""
    lines = [f"I need {a} {sign} {b}."]
    if sign == "-" and a < b:
        lines.append(f"{a} is less than {b}, so I take {b} - {a} and put a minus.")
    high, low = (max(a, b), min(a, b)) if sign == "-" else (a, b)
    tens, ones = divmod(high, 10)
    other_tens, other_ones = divmod(low, 10)
    if sign == "+":
        ones_sum = ones + other_ones
        carry = ones_sum // 10
        tail = f", write {ones_sum % 10}, carry 1." if carry else "."
        lines.append(f"Ones: {ones} + {other_ones} = {ones_sum}{tail}")
        tens_sum = tens + other_tens + carry
        extra = " + 1" if carry else ""
        lines.append(f"Tens: {tens} + {other_tens}{extra} = {tens_sum}.")
    else:
        borrow = ones < other_ones
        top = ones + 10 if borrow else ones
        tail = ", borrow 1." if borrow else "."
        lines.append(f"Ones: {top} - {other_ones} = {top - other_ones}{tail}")
        extra = " - 1" if borrow else ""
        lines.append(f"Tens: {tens} - {other_tens}{extra} = {tens - other_tens - borrow}.")
    result = a + b if sign == "+" else a - b
    lines.append(f"The result is {result}.")
    return "\n".join(lines)
