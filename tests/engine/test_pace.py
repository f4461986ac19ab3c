from localllm.engine.pace import FEWEST, STRETCH, Pace


def learnt(step, token):
    pace = Pace()
    for _ in range(50):
        pace.took(step, 4, 0)
        pace.took(token * 100, 0, 100)
    return pace


def test_a_step_is_stretched_so_far():
    pace = learnt(0.02, 0.001)
    assert pace.allowance(8, 1) == int((STRETCH - 1) * 20)
    assert pace.allowance(1, 10) > 5 * pace.allowance(8, 1)


def test_a_prompt_gets_on_however_slow_it_is():
    assert learnt(0.001, 1.0).allowance(8, 1) == FEWEST
    assert Pace().allowance(1, 1) == FEWEST


def test_what_a_token_takes_is_learnt_beside_answers_too():
    pace = learnt(0.02, 0.001)
    for _ in range(50):
        pace.took(0.02 + 0.002 * 30, 8, 30)
    assert pace.allowance(8, 1) < int((STRETCH - 1) * 20) * 0.6
