"""A scripted chat through LitServe: `litserve_server.py PORT TOKENS INTERVAL_S`."""

import asyncio
import sys

import litserve as ls


class Scripted(ls.LitAPI):
    """Tells a word an interval, as many as it was started with."""

    def setup(self, device):
        self.words = [f"word{i % 100} " for i in range(int(sys.argv[2]))]

    async def decode_request(self, request):
        return request

    async def predict(self, prompt):
        for word in self.words:
            await asyncio.sleep(float(sys.argv[3]))
            yield word

    async def encode_response(self, output):
        async for word in output:
            yield {"role": "assistant", "content": word}


if __name__ == "__main__":
    api = Scripted(spec=ls.OpenAISpec(), enable_async=True)
    ls.LitServer(api, accelerator="cpu").run(port=int(sys.argv[1]), host="127.0.0.1")
