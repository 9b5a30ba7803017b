"""Images and videos.

- `ask.py`      what a request asks for; `form.py` reads a form's fields as they pass
- `video.py`    a video job as its server describes it
- `passing.py`  answers: images with their energy, jobs that were begun
- `jobs.py`     which jobs there are, whose they are, and at which backend
- `poller.py`   asks servers how their jobs stand
- `xdit.py`     gives an xDiT server OpenAI's surface
"""
