"""A FastAPI agent, started by uvicorn's own command line: nothing in it knows of a supervisor."""

from fastapi import FastAPI

app = FastAPI(title="weather")

SKIES = ("clear", "cloudy", "rain", "snow")


@app.get("/")
def forecast(city: str = "Ghent") -> dict[str, str]:
    return {"city": city, "sky": SKIES[sum(city.encode()) % len(SKIES)]}


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
