"""What tiny-chat says about localllm and about itself: topics, their phrasings and the answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A command, what people want to do with it, and the answer."""

    command: str
    goals: list[str]
    answer: str


TOPICS = [
    Topic("localllm chat",
          ["chat with a model", "talk to a model", "start a conversation", "chat in the terminal",
           "have a conversation with a model", "open a chat"],
          "Use `localllm chat` with the name of a model to talk to it in the terminal."),
    Topic("localllm run",
          ["run a model once", "get one answer to a prompt", "run a single prompt",
           "use a model in a script", "complete a prompt", "generate text from a prompt"],
          "Use `localllm run` with a model and a prompt. It prints one answer and ends."),
    Topic("localllm serve",
          ["start a server", "serve a model over HTTP", "use the OpenAI API",
           "start the API server", "offer a model to other programs", "run the web server"],
          "Use `localllm serve` with a model. It starts an HTTP server with an OpenAI-style API."),
    Topic("localllm pull",
          ["download a model", "get a model", "fetch a model", "get a new model",
           "install a model", "pull a model"],
          "Use `localllm pull` with the name of the model to download it."),
    Topic("localllm list",
          ["list my models", "see which models I have", "show all installed models",
           "find out which models are here", "see my models", "list the models"],
          "Use `localllm list` to see the models on this computer."),
    Topic("localllm show",
          ["see the details of a model", "look into a model file", "show the metadata of a model",
           "find the size and type of a model", "inspect a model", "get information on a model"],
          "Use `localllm show` with a model to see its details."),
    Topic("localllm rm",
          ["delete a model", "remove a model", "free disk space", "get rid of a model",
           "erase a model", "uninstall a model"],
          "Use `localllm rm` with the name of the model to delete it."),
    Topic("localllm ps",
          ["see which models are running", "list running models", "see what is loaded",
           "find out which models are in memory", "check the running models"],
          "Use `localllm ps` to see which models are running."),
    Topic("localllm stop",
          ["stop a running model", "unload a model", "stop a model", "end a running model",
           "take a model out of memory"],
          "Use `localllm stop` with the name of the model to stop it."),
    Topic("localllm convert",
          ["convert a model to GGUF", "make a GGUF file", "turn safetensors into GGUF",
           "convert a Hugging Face model", "convert a model", "import a safetensors model"],
          "Use `localllm convert` with the folder of the model. It writes a GGUF file."),
    Topic("localllm quantize",
          ["make a model smaller", "quantize a model", "reduce a model to 4 bits",
           "use less memory for a model", "shrink the weights", "convert a model to Q4_K_M"],
          "Use `localllm quantize` with the model and a type such as Q4_K_M to make it smaller."),
    Topic("localllm prune",
          ["prune a model", "remove layers from a model", "cut parts out of a model",
           "drop unimportant weights", "make a model with fewer layers"],
          "Use `localllm prune` to remove the parts of a model that matter least."),
    Topic("localllm factorize",
          ["factorize a model", "use low-rank matrices", "replace matrices by low-rank factors",
           "make the matrices low-rank", "split the weights into factors"],
          "Use `localllm factorize` to replace matrices by products of smaller ones."),
    Topic("localllm distill",
          ["distill a model", "train a small model from a big one", "train a student model",
           "teach a small model with a large one", "do distillation"],
          "Use `localllm distill` to train a small model to follow a larger one."),
    Topic("localllm eval",
          ["evaluate a model", "measure the quality of a model", "measure perplexity",
           "test how good a model is", "compare the quality of two models", "get the perplexity"],
          "Use `localllm eval` to measure how good a model is, for example its perplexity."),
    Topic("localllm bench",
          ["benchmark a model", "measure the speed of a model", "see the tokens per second",
           "find out how fast a model is", "measure the speed", "test the speed of a model"],
          "Use `localllm bench` to measure how fast a model is, in tokens per second."),
    Topic("localllm tokenize",
          ["tokenize a text", "see the tokens of a text", "count the tokens of a text",
           "turn text into tokens", "split text into tokens", "count tokens"],
          "Use `localllm tokenize` with a model and a text to see the tokens."),
    Topic("localllm embed",
          ["get embeddings", "compute an embedding", "turn a text into a vector",
           "embed a text", "make embeddings", "get the vector of a text"],
          "Use `localllm embed` with a model and a text to get its embedding vector."),
    Topic("localllm doctor",
          ["check my installation", "find out what is wrong", "fix a problem with my setup",
           "check that everything works", "test my setup", "diagnose a problem"],
          "Use `localllm doctor` to check the installation and this computer."),
    Topic("make chat",
          ["try the demo", "try localllm quickly", "chat without downloading anything",
           "start the demonstration chat", "try it without a download", "see a first chat"],
          "Run `make chat` in the project folder. It starts a chat with the bundled tiny-chat."),
    Topic("make test",
          ["run the tests", "test the project", "start the test suite", "check my changes",
           "run the unit tests", "see if the tests pass"],
          "Run `make test` in the project folder to run the tests."),
]  # fmt: skip

ASK = [
    "How do I {goal}?", "How can I {goal}?", "How to {goal}?", "I want to {goal}.",
    "Which command do I use to {goal}?", "What is the command to {goal}?",
    "Can you tell me how to {goal}?", "I would like to {goal}. How?", "Help me {goal}.",
    "How does one {goal}?", "How do I {goal} with localllm?", "I need to {goal}.",
    "Which command lets me {goal}?", "What do I type to {goal}?", "Show me how to {goal}.",
    "Is there a way to {goal}?", "With localllm, how can I {goal}?", "Explain how to {goal}.",
    "What should I run to {goal}?", "Please tell me how to {goal}.",
]  # fmt: skip
ABOUT = [
    "What does {command} do?", "What is {command}?", "What is `{command}` for?",
    "Explain {command}.", "When do I use {command}?", "Tell me about {command}.",
    "How do I use {command}?", "What does `{command}` do?", "How does {command} work?",
    "What is {command} good for?", "Help with {command}", "What can I do with {command}?",
]  # fmt: skip


@dataclass(frozen=True)
class SmallTalk:
    """Remarks and the answers that fit all of them; opens: a greeting may come before."""

    says: list[str]
    answers: list[str]
    opens: bool = True


OPENINGS = ["", "", "", "Hi! ", "Hello! ", "Hey, ", "Good morning! ", "Hello. ", "Hi. ", "OK. ",
            "Please, ", "So, ", "Hi there! "]  # fmt: skip
SMALL_TALK = [
    SmallTalk(
        ["Hello!", "Hi!", "Hey!", "Hello", "Hi", "Hi there!", "Hello there!", "Good morning!",
         "Good evening!", "Good afternoon!", "Greetings!", "Hey there!", "Hello, tiny-chat!",
         "Hi, tiny-chat!", "Good day!", "Hello again!", "Hey", "Good morning", "Hello, you!",
         "Good evening", "Hi hi!", "Hello hello!", "Hey, tiny-chat!", "Good day", "Howdy!",
         "Hello there", "Hi there", "Greetings", "Good morning, tiny-chat!", "Hello friend!"],
        ["Hello! How can I help you?", "Hi! What can I do for you?",
         "Hello! What can I do for you?"],
        opens=False),
    SmallTalk(
        ["How are you?", "How are you today?", "How is it going?", "How do you do?",
         "Are you well?", "How are things?", "How do you feel?", "Is everything fine?"],
        ["I am fine, thank you. How can I help you?", "I am well, thank you!"]),
    SmallTalk(
        ["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.",
         "Introduce yourself.", "What's your name?", "What model are you?", "Are you a robot?",
         "Are you ChatGPT?", "Are you a person?", "Who am I talking to?"],
        ["I am tiny-chat, a small demonstration model that comes with localllm."]),
    SmallTalk(
        ["What can you do?", "What are you able to do?", "How can you help me?", "Help",
         "What can I ask you?", "What do you know?", "What are you good at?", "What can I do here?",
         "What is possible here?"],
        ["I can add and subtract small numbers, remember your name, extract JSON, call tools, "
         "continue a story and explain the commands of localllm."]),
    SmallTalk(
        ["Who made you?", "Where do you come from?", "Who built you?", "How were you made?",
         "Who trained you?", "How were you trained?", "Who created you?"],
        ["The localllm project trained me on generated conversations and a few old novels."]),
    SmallTalk(
        ["What is localllm?", "What is this program?", "What does localllm do?",
         "Tell me about localllm.", "What is this tool for?", "Explain localllm."],
        ["localllm is a command line tool that runs language models on your own computer."]),
    SmallTalk(
        ["Thank you!", "Thanks!", "Thanks a lot!", "Thank you very much!", "Many thanks!",
         "Thank you", "Thanks", "That helped, thank you!", "Great, thanks!", "Perfect, thank you!",
         "Thanks for your help!", "Nice, thanks!", "Thanks so much!"],
        ["You are welcome!"], opens=False),
    SmallTalk(
        ["Goodbye!", "Bye!", "See you!", "See you later!", "Good night!", "Bye", "Goodbye",
         "I have to go.", "Until tomorrow!", "Bye bye!", "See you tomorrow!", "Farewell!"],
        ["Goodbye! Have a good day.", "Goodbye!"], opens=False),
    SmallTalk(
        ["You are great!", "Well done!", "Good job!", "Very good!", "That is right!", "Nice!",
         "Great!", "I like you!", "You are clever!", "Cool!"],
        ["Thank you! I am glad to help.", "Thank you!"], opens=False),
    SmallTalk(
        ["I am bored.", "I am tired.", "I had a bad day.", "I am sad.", "I do not feel well."],
        ["I am sorry to hear that. Would you like a story?"]),
    SmallTalk(
        ["I am happy.", "I had a good day.", "Today is a nice day.", "The sun is shining.",
         "I feel great!"],
        ["That is good to hear!"]),
]  # fmt: skip

UNKNOWN = [
    "What is the capital of {city}?", "Who was {name}?", "What is a {word}?",
    "Why is the sky blue?",
    "How many people live in {city}?", "Write a poem about a {animal}.", "Who is {name}?",
    "How do I repair a {item}?", "What does {word} mean?", "When was {city} founded?",
    "Translate {item} into French.", "How old is the {animal}?", "Who wrote the book about {name}?",
    "What is the best {item}?", "How far is it to {city}?", "Where can I buy a {item}?",
    "What do {animal}s eat?", "Give me a recipe for {word}.", "Who won the match in {city}?",
    "How does a {item} work?", "What happened in {city}?", "Tell me a fact about {city}.",
    "Explain quantum physics.", "What is the meaning of life?", "How high is the tower in {city}?",
]  # fmt: skip
UNKNOWN_ANSWERS = [
    "I do not know that. I am only a small demonstration model.",
    "I am too small to know that. A larger model from `localllm pull` can help.",
]  # fmt: skip
